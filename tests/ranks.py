"""Real processes for tests over ranks: gloo on the loopback interface, one thread each."""

import io
import multiprocessing as mp
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CONTEXT = mp.get_context("forkserver")  # torch is imported once, before any thread exists
CONTEXT.set_forkserver_preload(["torch._dynamo", "largebatch.train", "largebatch.tasks"])  # torch.optim wants _dynamo


def run_ranks(function: Callable[..., Any], size: int, *arguments: Any) -> list[Any]:
    """`function(*arguments)` on every rank of a new world; returns what each rank returned."""
    with tempfile.TemporaryDirectory() as scratch:
        results = CONTEXT.SimpleQueue()
        ranks = [
            CONTEXT.Process(target=_rank, args=((rank, size, scratch), results, function, arguments))
            for rank in range(size)
        ]
        for process in ranks:
            process.start()
        found: dict[int, Any] = {}
        for _ in ranks:
            rank, is_good, value = results.get()
            if not is_good:
                for process in ranks:
                    process.kill()
                raise AssertionError(f"rank {rank} failed:\n{value}")
            found[rank] = torch.load(io.BytesIO(value), weights_only=False)  # our own bytes, of a moment ago
        for process in ranks:
            process.join()
    return [found[rank] for rank in range(size)]


def _rank(place: tuple[int, int, str], results: Any, function: Callable[..., Any], arguments: Any) -> None:
    rank, size, scratch = place
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        LARGEBATCH_RENDEZVOUS=f"file://{Path(scratch) / 'rendezvous'}",
        GLOO_SOCKET_IFNAME="lo",
    )
    torch.set_num_threads(1)
    try:
        buffer = io.BytesIO()  # not the tensors: their memory would go with this process
        torch.save(function(*arguments), buffer)
        results.put((rank, True, buffer.getvalue()))
    except BaseException:
        results.put((rank, False, traceback.format_exc()))
