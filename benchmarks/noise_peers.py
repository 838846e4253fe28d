"""What it costs to measure the gradient noise at an update, with the peers and here: F1 on Fashion-MNIST, batch 256.

A measured update against a plain one, forward and backward pass and SGD's step, in the same round and in turns. Batch norm
uses its running statistics, as BackPACK asks; every contender measures at every update, where ours would by itself look
at one in k, k chosen so that a half percent of the time goes into it (`probe_overhead.py` has that figure).

* two halves: each micro-batch of 128 by itself, which is what people write; free for those who accumulate anyway.
* largebatch, halves: the same, with `NoiseScale.watch` around it.
* largebatch, examples: `example_partials`, the norm of each example's gradient without the gradients.
* BackPACK 1.7.1: `BatchL2Grad`, the same norms.
* gns-pytorch 0.1.5: `compute_gns` with its defaults, a backward pass for each of a quarter of the examples.

Cockpit 1.0.2 is left out: it imports `pkg_resources`, which setuptools has removed.

    .venv-bench/bin/python benchmarks/noise_peers.py             # a minute
    .venv-bench/bin/python benchmarks/noise_peers.py --rounds 3
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from backpack import backpack, extend  # pyright: ignore[reportMissingImports]
from backpack.extensions import BatchL2Grad  # pyright: ignore[reportMissingImports]
from gns_pytorch import compute_gns  # pyright: ignore[reportMissingImports]
from pairing import THREADS, Others, alternate, machine, speedup
from torch import Tensor, nn
from torch.nn import functional as F

from largebatch import core, noise, tasks
from largebatch.results import Cell, Column, Table

BATCH, UPDATES = 256, 20
PLAIN = "plain"
COSTLY = {"gns-pytorch": 2}  # updates, where 20 would take minutes


def plain(inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    """Nothing is measured."""
    model, optimizer = _network()

    def update() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return update


def halves(inputs: Tensor, targets: Tensor, *, is_watched: bool) -> Callable[[], None]:
    """Two backward passes, and what they say of the noise."""
    model, optimizer = _network()
    parts = list(zip(inputs.chunk(2), targets.chunk(2), strict=True))
    if is_watched:
        noise.NoiseScale(every=1).watch(model, optimizer)

    def update() -> None:
        optimizer.zero_grad()
        first: list[Tensor] = []
        for x, y in parts:
            (F.cross_entropy(model(x), y, reduction="sum") / len(inputs)).backward()
            if not is_watched and not first:
                first = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        if not is_watched:
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            second = torch._foreach_sub(grads, first)
            _ = [torch.stack(torch._foreach_norm(g)).square().sum() for g in (first, second, grads)]
        optimizer.step()

    return update


def examples(inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    """Norms of the examples' gradients beside a plain update."""
    model, optimizer = _network()

    def update() -> None:
        noise.example_partials(model, core.cross_entropy, inputs, targets)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return update


def by_backpack(inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    """Norms of the examples' gradients, with the update's own backward pass."""
    model, optimizer = _network()
    model, criterion = extend(model), extend(nn.CrossEntropyLoss())

    def update() -> None:
        optimizer.zero_grad()
        with backpack(BatchL2Grad()):
            criterion(model(inputs), targets).backward()
        optimizer.step()

    return update


def by_gns_pytorch(inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    """As its page shows."""
    model, optimizer = _network()

    def update() -> None:
        optimizer.zero_grad()
        losses = F.cross_entropy(model(inputs), targets, reduction="none")
        compute_gns(losses, model)
        losses.mean().backward()
        optimizer.step()

    return update


CONTENDERS = {
    PLAIN: plain,
    "two halves": partial(halves, is_watched=False),
    "largebatch, halves": partial(halves, is_watched=True),
    "largebatch, examples": examples,
    "BackPACK": by_backpack,
    "gns-pytorch": by_gns_pytorch,
}


def _network() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = tasks.f1().eval()
    return model, torch.optim.SGD(model.parameters(), 0.01)


def timed(name: str, update: Callable[[], None]) -> Callable[[int], tuple[float, float]]:
    """As `alternate` calls it: for the seconds of an update, and the cores that others kept busy."""
    updates = COSTLY.get(name, UPDATES)

    def measure(_: int) -> tuple[float, float]:
        update()
        others = Others()
        begun = time.perf_counter()
        for _ in range(updates):
            update()
        return (time.perf_counter() - begun) / updates, others.cores

    return measure


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(THREADS)
    inputs, targets = (tensor[:BATCH] for tensor in tasks.get("fashion-mnist/f1").train)
    found = alternate({name: timed(name, make(inputs, targets)) for name, make in CONTENDERS.items()}, rounds)
    rows: list[list[Cell]] = []
    for name, seconds in found.items():
        cost = speedup(seconds, found[PLAIN])
        rows.append([name, 1e3 * sorted(seconds)[len(seconds) // 2], cost.ratio, cost.low, cost.high])
    columns = ["what", Column("an update", "ms"), Column("÷ plain", format=".2f"), Column("least", format=".2f"),
               Column("most", format=".2f")]  # fmt: skip
    print(Table(columns, rows).markdown(), machine(), sep="\n\n")


if __name__ == "__main__":
    main()
