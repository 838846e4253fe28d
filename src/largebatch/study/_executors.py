"""Where runs are computed: any `concurrent.futures.Executor`; by default processes of one thread each on this machine.

One thread each, because threads of several processes fight for the cores. A worker ends with the study, however that ends.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

__all__ = ["Pool", "local_pool", "open_executor"]

Pool = Callable[[], Executor]
"""Makes an executor, and makes another one when a killed worker has broken it."""


def local_pool(workers: int) -> Pool:
    """Processes on this machine."""
    context = multiprocessing.get_context("spawn")
    return lambda: ProcessPoolExecutor(workers, context, initializer=_begin)


@contextmanager
def open_executor(address: str) -> Iterator[Executor]:
    """The executor behind an address.

    Args:
        address: "dask://host:port" of a Dask scheduler whose workers have one thread each and see the study's folder.

    Raises:
        ValueError: another kind of address, a scheduler that does not answer, or the extra is not installed.
    """
    kind, separator, place = address.partition("://")
    if kind != "dask" or not separator or not place:
        raise ValueError(f"executor: expected dask://host:port, got {address!r}; leave it out for processes here")
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError(f"executor: {address} needs Dask: pip install 'largebatch[dask]'") from error
    try:
        client: Any = Client(f"tcp://{place}", timeout="10s", set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ValueError(
            f"executor: no Dask scheduler answers at {place}: {error}; start one: dask scheduler"
        ) from error
    with client, client.get_executor(pure=False, retries=2) as executor:
        yield executor


def _begin() -> None:
    """In a worker: one thread, and an end when the study ends, even by kill -9."""
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
