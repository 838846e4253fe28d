"""A pool of worker processes, one thread each because threads of several processes fight for the cores.

Importing torch takes two seconds. On Linux one server process does it, beside whatever the caller does meanwhile, and
workers are its forks (Python's own default since 3.14): they start in milliseconds, again where one was killed, and share
its memory. The server computes nothing and holds no task; it stays for as long as the process that started it. Elsewhere,
and where there is no place for its socket, workers are new processes.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from types import FrameType
from typing import NoReturn

__all__ = ["Pool", "local_pool", "stop_together", "warm_up"]

Pool = Callable[[], Executor]
"""Makes an executor, and makes another one when a killed worker has broken it."""


def warm_up(imports: str) -> bool:
    """Start the server, and do not wait for it; of several calls in a process the first one counts.

    Args:
        imports: module of what workers will be given to do.

    Returns:
        Whether there is a server.
    """
    if sys.platform != "linux":
        return False
    multiprocessing.set_forkserver_preload([imports])
    resource_tracker.ensure_running()  # of its own accord it would unblock what is blocked next
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the workers, not for the server
    try:
        with _safe_path():
            forkserver.ensure_running()
    except OSError:  # the path of its socket is too long, as some clusters' TMPDIR make it
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return True


def local_pool(workers: int, imports: str) -> Pool:
    """Processes here; begins to get them ready.

    They have this process's environment variables, as these are when the executor is made, but for what libraries read
    while they are imported. They end with this process, even if that is killed.

    Args:
        imports: as for `warm_up`.
    """
    context = multiprocessing.get_context("forkserver" if warm_up(imports) else "spawn")
    return lambda: ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(dict(os.environ),))


@contextmanager
def stop_together() -> Iterator[None]:
    """Ctrl-C and SIGTERM, by which schedulers stop a job, are passed on to the workers, and raised here.

    A worker that trains ends after its update, with a checkpoint. For commands: all child processes are told. Nothing is
    changed where another than the main thread asks.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        SystemExit: SIGTERM; its code is 143.
    """

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> NoReturn:
        for child in multiprocessing.active_children():
            child.terminate()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _safe_path() -> Iterator[None]:
    """For a Python that is started now: a statistics.py in this folder is no module of its own."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _begin(environment: dict[str, str]) -> None:
    """In a worker; a fork has what its server had."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    import numpy as np
    import torch

    np.random.seed()  # noqa: NPY002 - what a user's task draws there must not be the same in every fork
    torch.set_num_threads(1)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
