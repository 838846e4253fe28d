"""What ghost batch norm costs: a training step of C1 with ghosts of 32 against the same step with plain batch norm.

The work: forward pass, mean cross-entropy, backward pass and a step of SGD with momentum, for the network C1 on 512 random
images of 3 x 32 x 32, float32, 2 threads. Contenders:

* plain: `nn.BatchNorm1d` and `nn.BatchNorm2d`, as C1 is built.
* ghosts: the same network after `swap_batchnorm(model, 32)`: on a CPU a loop over the ghosts of images, and folded ghosts
  where there are no pixels.
* folded: the same with the ghosts folded into channels everywhere, the way of a GPU, forced here for comparison.

A measurement is the mean of several steps; contenders alternate, and the ratio is ghosts' time / plain's, round by round:
1.10 means 10 % slower. A round waits for a quiet machine and is run again where other processes kept more than 0.1 cores
busy. The layers' share of a step depends on the network: in C1 the convolutions dominate, so a network
of cheaper layers pays more.

    .venv-bench/bin/python benchmarks/ghost_batchnorm.py            # 7 rounds of 3 steps; about 2 minutes
    .venv-bench/bin/python benchmarks/ghost_batchnorm.py --quick    # a smoke run: 2 rounds of 1 step at batch 64
    .venv-bench/bin/python benchmarks/ghost_batchnorm.py --json     # a JSON row for each comparison, on stdout
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from pairing import THREADS, Others, alternate, machine, speedup, tell
from torch import Tensor, nn
from torch.nn import functional as F

from largebatch import tasks
from largebatch.core import swap_batchnorm

PREFERS_FOLDING = "largebatch.core._batchnorm._prefers_folding"
Measure = Callable[[int], tuple[float, float]]  # round -> seconds, cores that others kept busy


def network(ghost_batch_size: int | None) -> nn.Module:
    """C1; None leaves torch's own batch norm."""
    torch.manual_seed(0)
    model = tasks.c1()
    if ghost_batch_size is not None:
        swap_batchnorm(model, ghost_batch_size)
    return model


def contender(inputs: Tensor, targets: Tensor, steps: int, ghost_batch_size: int | None) -> Measure:
    """A function that makes `steps` steps and returns the seconds of one, and the others' cores."""
    model = network(ghost_batch_size)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def measure(_: int) -> tuple[float, float]:
        others = Others()
        begun = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        return (time.perf_counter() - begun) / steps, others.cores

    return measure


def folded(measure: Measure, number: int) -> tuple[float, float]:
    """A measurement with the ghosts folded into channels, whatever the device."""
    with patch(PREFERS_FOLDING, lambda _: True):
        return measure(number)


def comparisons(found: dict[str, list[float]], work: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each way of ghost batch norm."""
    rows: list[dict[str, Any]] = []
    for name in ("ghosts", "folded"):
        ratio = speedup(found[name], found["plain"])  # plain is this many times faster: what the ghosts cost
        rows.append(
            {
                "benchmark": "ghost_batchnorm", "contender": name, "peer": "plain",
                **ratio.row(),
                "step_seconds": median(found[name]), "peer_step_seconds": median(found["plain"]), **work,
            }
        )  # fmt: skip
    return rows


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--ghost", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="in one measurement")
    parser.add_argument("--quick", action="store_true", help="batch 64, 2 rounds of 1 step")
    parser.add_argument("--json", action="store_true", help="JSON rows on stdout instead of a table")
    return parser.parse_args()


def main() -> None:
    """Run, and print what was found."""
    arguments = _arguments()
    batch, rounds, steps = (64, 2, 1) if arguments.quick else (arguments.batch, arguments.rounds, arguments.steps)
    torch.set_num_threads(THREADS)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(batch, 3, 32, 32, generator=generator)
    targets = torch.randint(10, (batch,), generator=generator)
    work = {"batch_size": batch, "ghost_batch_size": arguments.ghost, "rounds": rounds, "steps": steps, "seed": 0}
    work |= machine()
    tell(json.dumps(work))
    build = partial(contender, inputs, targets, steps)
    runs = {
        "plain": build(None),
        "ghosts": build(arguments.ghost),
        "folded": partial(folded, build(arguments.ghost)),
    }
    for run in runs.values():
        run(0)  # untimed
    rows = comparisons(alternate(runs, rounds), work)
    for row in rows:
        if arguments.json:
            print(json.dumps(row))
        else:
            ratio = f"{row['ratio']:.3f}x ({row['low']:.3f}-{row['high']:.3f})"
            print(f"{row['contender']}: a step costs {ratio} that of plain batch norm; "
                  f"{row['step_seconds']:.3f} s against {row['peer_step_seconds']:.3f} s")  # fmt: skip


if __name__ == "__main__":
    main()
