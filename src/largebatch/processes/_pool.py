"""A pool of worker processes, one thread each because threads of several processes fight for the cores.

Importing torch takes two seconds. On Linux one server process does it, beside whatever the caller does meanwhile, and
workers are its forks: they start in milliseconds, again where one was killed, and share its memory. The server computes
nothing and holds no task, so a fork of it is as good as a new process (Python's own default since 3.14). Elsewhere workers
are new processes.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import forkserver

__all__ = ["Pool", "local_pool"]

Pool = Callable[[], Executor]
"""Makes an executor, and makes another one when a killed worker has broken it."""

METHOD = "forkserver" if sys.platform == "linux" else "spawn"


def local_pool(workers: int, imports: str) -> Pool:
    """Processes here; begins to get them ready at once, and does not wait for it.

    Workers have this process's environment variables, as they are when the executor is made, and end with this process,
    even if that is killed.

    Args:
        imports: module of what they will be given to do.
    """
    context = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload([imports])
        forkserver.ensure_running()
    return lambda: ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(dict(os.environ),))


def _begin(environment: dict[str, str]) -> None:
    """In a worker."""
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
