"""The run folder: what a run leaves on disk, so that it can be killed anywhere, continued, and read by other verbs.

recipe.json         what identifies the run         result.json    there if and only if the run has ended
environment.json    versions and machine            log.jsonl      one row per line, appended
checkpoints/        one folder per checkpoint       lock           held by the process that trains
"""

import hashlib
import json
import os
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from largebatch.results._json import decode, encode, json_text, read_json, replace_file, write_json

__all__ = ["RunFolder", "run_digest"]

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class RunFolder:
    """The files of one run. Nothing is made before something is written.

    Args:
        path: the folder; may not exist yet.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are kept."""
        return self.path / "checkpoints"

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a file such as "recipe.json", whole or not at all.

        Raises:
            ValueError: for what JSON cannot hold; the file is then as it was.
        """
        write_json(self.path / name, value)

    def read(self, name: str) -> dict[str, Any] | None:
        """What `write` wrote, or None where there is no such file.

        Raises:
            ValueError: the file is not JSON.
        """
        path = self.path / name
        return read_json(path) if path.exists() else None

    @staticmethod
    def decode(content: bytes) -> dict[str, Any]:
        """What `write` wrote, from the bytes of the file: for those who got them by another way than the disk."""
        return decode(json.loads(content))

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows to the log; they are with the operating system when this returns.

        Args:
            rows: each with "samples", and with "phase" in a run of several, which is what `cut_back` goes by.

        Raises:
            ValueError: a row without "samples", or with what JSON cannot hold; then none of the rows is written.
        """
        lines = [json_text(_with_samples(row)) + "\n" for row in rows]
        self.path.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab+") as file:
            _drop_torn_line(file)
            file.write("".join(lines).encode())

    def log(self) -> list[dict[str, Any]]:
        """All rows of the log. A last line that a crash cut short is left out.

        Raises:
            ValueError: a line before the last is no JSON; names it.
        """
        if not self._log.exists():
            return []
        # After the last newline stands nothing, or a row whose writing was interrupted.
        lines = self._log.read_bytes().split(b"\n")[:-1]
        return [self._row(number, line) for number, line in enumerate(lines, start=1)]

    def cut_back(self, samples: float, phase: int | None = None) -> None:
        """Drop the rows written after a checkpoint, in one atomic step: a resumed run writes them again.

        Args:
            samples: seen at the checkpoint; rows with more are dropped. Below 0 drops all.
            phase: of the checkpoint, where rows count samples from the start of their phase: kept are the rows with
                (phase, samples) up to this. None: rows count samples from the start of the run.
        """
        if not self._log.exists():
            return
        limit = (0 if phase is None else phase, samples)
        kept = [row for row in self.log() if (0 if phase is None else row.get("phase", 0), row["samples"]) <= limit]
        replace_file(self._log, "".join(json_text(row) + "\n" for row in kept))

    @contextmanager
    def lock(self, patience_seconds: float = 5.0) -> Generator[None, None, None]:
        """Hold this folder for one process; the operating system lets go when the process ends, however it ends.

        Args:
            patience_seconds: how long to wait for another one. Not 0 by default: the workers of a killed run take a
                moment to follow it.

        Raises:
            RuntimeError: another process holds it; names the process.
        """
        import fcntl  # not on Windows, where all else here works

        self.path.mkdir(parents=True, exist_ok=True)
        # Never deleted: a second process could then lock a new file while a third still holds the old one.
        with (self.path / "lock").open("a+") as file:
            deadline = time.monotonic() + patience_seconds
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise RuntimeError(self._held_by(file)) from None
                    time.sleep(_POLL_SECONDS)
            _put(file, str(os.getpid()))
            yield

    @property
    def _log(self) -> Path:
        return self.path / "log.jsonl"

    def _row(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            return decode(json.loads(line))
        except ValueError as error:
            raise ValueError(
                f"{self._log}, line {number}: expected a row of JSON, got {line[:80]!r}; "
                "delete that line, or delete the folder to train again"
            ) from error

    def _held_by(self, file: IO[str]) -> str:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        return (
            f"{self.path}: expected a run folder that no one else is using, but process {holder} holds it; "
            "wait for it to end, stop it, or choose another folder"
        )


def run_digest(**parts: object) -> str:
    """The identity of a run: 12 hexadecimal digits that depend on every part and not on their order.

    Equal numbers of different kind differ (1 and 1.0), so give fields that are always of one kind.

    Raises:
        ValueError: for what JSON cannot hold, naming its place.
    """
    canonical = json.dumps(encode(parts, "digest"), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(canonical.encode(), digest_size=6).hexdigest()


def _with_samples(row: Mapping[str, Any]) -> Mapping[str, Any]:
    if "samples" not in row:
        raise ValueError(f'log: expected "samples" in every row, got {sorted(row)}; a resumed run is cut back by it')
    return row


def _drop_torn_line(file: IO[bytes]) -> None:
    """Without this, a new row would be glued to what a crash left of the last one."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _put(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()
