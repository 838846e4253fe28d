"""`--workers N`: one process for each rank on this machine; torchrun does the same on many.

The children end with the parent, whatever ends it: each watches a pipe that closes with it. Ctrl-C and SIGTERM are passed
on, so that all ranks stop after the same update and leave a checkpoint. Nothing listens beyond the loopback interface.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

__all__ = ["launch", "leave_with_parent"]

GRACE_SECONDS = 10.0  # for the other ranks to end by themselves once one has
WATCH = "LARGEBATCH_WATCH_PARENT"


def launch(arguments: Sequence[str], workers: int) -> int:
    """Run `largebatch <arguments>` in `workers` processes; returns rank 0's exit code, or the first failure's.

    Raises:
        ValueError: fewer than one worker, or the call is itself under torchrun.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    if "RANK" in os.environ:
        raise ValueError("workers: torchrun has started this process already; leave --workers out")
    with tempfile.TemporaryDirectory(prefix="largebatch-") as scratch:
        children = [_start(arguments, rank, workers, Path(scratch)) for rank in range(workers)]

        def forward(number: int, frame: FrameType | None) -> None:
            for child in children:
                if child.poll() is None:
                    child.send_signal(number)

        before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            codes = _wait(children)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for child in children:
                if child.poll() is None:
                    child.kill()
        return _verdict(codes, Path(scratch))


def leave_with_parent() -> None:
    """In a child of `launch`: end when the parent's pipe closes, even if the parent was killed."""
    if os.environ.pop(WATCH, None) is None:
        return

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin: its lock, held here, would abort the interpreter's own exit
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start(arguments: Sequence[str], rank: int, workers: int, scratch: Path) -> "subprocess.Popen[bytes]":
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(workers),
        "LARGEBATCH_RENDEZVOUS": f"file://{scratch / 'rendezvous'}",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        WATCH: "1",
    }
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # Rank 0 speaks for all; what the others say is kept for the case that one of them fails alone.
    errors = None if rank == 0 else (scratch / f"{rank}.stderr").open("wb")
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "largebatch", *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=None if rank == 0 else subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # a terminal's Ctrl-C reaches the children once, through us
        )
    finally:
        if errors is not None:
            errors.close()


def _wait(children: "Sequence[subprocess.Popen[bytes]]") -> list[int]:
    """Exit codes by rank; once one rank has failed, the others get a moment, as they may wait for it for ever.

    A rank that is ended here for that reason has failed no more than by waiting: its code is 1.
    """
    deadline = None
    ended: set[int] = set()
    while any(child.poll() is None for child in children):
        if deadline is None and any(child.poll() not in (None, 0) for child in children):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    ended.add(child.pid)
            break
        time.sleep(0.02)
    codes = [child.wait() for child in children]
    return [1 if child.pid in ended else code for child, code in zip(children, codes, strict=True)]


def _verdict(codes: list[int], scratch: Path) -> int:
    # Rank 0 has said what happened, unless another crashed: then all it knows is a lost connection.
    said = {rank: (scratch / f"{rank}.stderr").read_text(errors="replace") for rank in range(1, len(codes))}
    crashed = [rank for rank in said if codes[rank] < 0 or "Traceback" in said[rank]]
    if codes[0] >= 0 and not crashed:
        return codes[0]
    for rank in crashed or [0]:
        sys.stderr.write(
            f"error: worker {rank} of {len(codes)} ended with exit code {codes[rank]}\n{said.get(rank, '')}"
        )
    return 1
