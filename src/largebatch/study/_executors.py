"""Where else runs are computed: an executor on other machines, by its address."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

__all__ = ["open_executor"]


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
