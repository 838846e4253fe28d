"""What was measured, on disk after each measurement: a second call finds what is there and continues.

A measurement is known by the identity of its run, its name, its batch-norm mode and its samples. The identity covers task,
data, initial weights, recipe, seed and the package's version, so a number of another run is never taken for this one's.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, final

from largebatch.diagnose._evidence import Row
from largebatch.results import RunFolder

__all__ = ["Ledger"]

FILE = "measurements.json"

Key = tuple[str, str, str, int]


@final
class Ledger:
    """The measurements of a folder.

    Args:
        folder: None keeps them in memory.

    Raises:
        ValueError: the file is there, and is not what this class writes.
    """

    def __init__(self, folder: Path | None):
        self.folder = None if folder is None else RunFolder(folder)
        self._rows: dict[Key, Row] = {}
        self._read()

    @property
    def rows(self) -> tuple[Row, ...]:
        """All that is there."""
        return tuple(self._rows.values())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder: two processes would each write the file without the other's numbers.

        Raises:
            RuntimeError: another process holds it.
        """
        with nullcontext() if self.folder is None else self.folder.lock(patience_seconds=0.5):
            self._read()  # what another wrote meanwhile
            yield

    def has(self, digest: str, names: Iterable[str], batch_norm: str, samples: int) -> bool:
        """Whether all these are there."""
        return all((digest, name, batch_norm, samples) in self._rows for name in names)

    def add(self, rows: Iterable[Row]) -> None:
        """Keep these, on disk as well."""
        self._keep(rows)
        self.write(FILE, {"measurements": [row.to_json() for row in self._rows.values()]})

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Another file beside them, whole or not at all."""
        if self.folder is not None:
            self.folder.write(name, value)

    def _read(self) -> None:
        held = None if self.folder is None else self.folder.read(FILE)
        if self.folder is not None and held is not None:
            if "measurements" not in held:
                raise ValueError(f"{self.folder.path / FILE}: expected a diagnosis' measurements; choose another --out")
            self._keep(Row.from_json(row) for row in held["measurements"])

    def _keep(self, rows: Iterable[Row]) -> None:
        self._rows |= {(row.digest, row.name, row.batch_norm, row.samples): row for row in rows}
