"""Run a script on W workers of this machine, as torchrun would, and collect what each saw; a hang is ended and located.

The environment is torchrun's (RANK, WORLD_SIZE, MASTER_ADDR, …; docs.pytorch.org/docs/stable/elastic/run.html), without
its agent: which rank waits where is what has to be found out, and an agent would end the others first. No GPU is shown to
the script.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from largebatch.check._explain import Outcome, explain
from largebatch.core import progress

__all__ = ["Launched", "run_workers"]

GRACE_SECONDS = 5.0  # for the others to end once one has failed, or all have seen enough
STACK_SECONDS = 1.0


@dataclass(frozen=True)
class Launched:
    """What came of a run: each rank's record, or the reason why there is none."""

    records: tuple[dict[str, Any], ...] = ()
    reason: str = ""


def run_workers(
    target: str, arguments: Sequence[str], workers: int, *, updates: int, gradients: int, timeout_seconds: float
) -> Launched:
    """Run `target` on `workers` processes until they have seen enough.

    Args:
        target: a script, or a function as `file.py:name`.
        timeout_seconds: without progress of any worker.
    """
    with tempfile.TemporaryDirectory(prefix="largebatch-check-") as scratch:
        folder = Path(scratch)
        settings = json.dumps({"updates": updates, "gradients": gradients})
        port = _free_port()
        words = [str(folder), settings, target, *arguments]
        children = [_start(folder, words, rank, workers, port) for rank in range(workers)]
        try:
            is_hung = _wait(folder, children, updates, timeout_seconds)
            if is_hung:
                _ask_for_stacks(children)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()
        outcomes = [_outcome(folder, rank, child.returncode) for rank, child in enumerate(children)]
        records = tuple(_record(folder, rank) for rank in range(workers))
        reason = explain(target, outcomes, timeout_seconds if is_hung else None)
        return Launched(reason=reason) if reason else Launched(records)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(folder: Path, words: Sequence[str], rank: int, workers: int, port: int) -> "subprocess.Popen[bytes]":
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(workers),
        "LOCAL_WORLD_SIZE": str(workers),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "largebatch-check",  # how Lightning knows torchrun
        "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
        "PYTHONUNBUFFERED": "1",
    }
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with (folder / f"said-{rank}").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "largebatch.check._child", *words],
            env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip


def _wait(folder: Path, children: "Sequence[subprocess.Popen[bytes]]", updates: int, timeout_seconds: float) -> bool:
    """Until all have ended; True if those that are left made no progress for too long."""
    marks = [folder / f"progress-{rank}" for rank in range(len(children))]
    seen, since, failed_at = "", time.monotonic(), None
    with progress("watching updates", updates, "updates") as bar:
        while any(child.poll() is None for child in children):
            now = "".join(_read(mark) for mark in marks)
            if now != seen or not all(mark.exists() for mark in marks):  # importing torch is not the script's time
                seen, since = now, time.monotonic()
                bar.update(max(0, min(_count(_read(marks[0])), updates) - bar.n))
            if failed_at is None and (_has_failed(folder, children) or _all_told(folder, len(children))):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS:
                return False
            if time.monotonic() - since > timeout_seconds:
                return True
            time.sleep(0.02)
    return False


def _has_failed(folder: Path, children: "Sequence[subprocess.Popen[bytes]]") -> bool:
    return any(child.poll() not in (None, 0) for child in children) or any(
        '"raised"' in path.read_text() for path in folder.glob("outcome-*.json")
    )


def _all_told(folder: Path, workers: int) -> bool:
    return len(list(folder.glob("outcome-*.json"))) == workers


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _count(mark: str) -> int:
    return int(mark.split(maxsplit=1)[0]) if mark.split() else 0


def _ask_for_stacks(children: "Sequence[subprocess.Popen[bytes]]") -> None:
    """Each worker that is left writes where it is."""
    if not hasattr(signal, "SIGUSR1"):
        return
    for child in children:
        if child.poll() is None:
            child.send_signal(signal.SIGUSR1)
    time.sleep(STACK_SECONDS)


def _outcome(folder: Path, rank: int, code: int) -> Outcome:
    path = folder / f"outcome-{rank}.json"
    told = json.loads(path.read_text()) if path.exists() else {}
    updates, passes = (int(word) for word in (_read(folder / f"progress-{rank}").split() or ["0", "0"]))
    said = (folder / f"said-{rank}").read_text(errors="replace")
    return Outcome(
        rank, code, told.get("how", ""), told.get("kind", ""), told.get("message", ""), told.get("trace", ""),
        updates, passes, _read(folder / f"stack-{rank}"), said,
    )  # fmt: skip


def _record(folder: Path, rank: int) -> dict[str, Any]:
    path = folder / f"record-{rank}.pt"
    return torch.load(path, weights_only=True) if path.exists() else {}
