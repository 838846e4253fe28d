"""What watching costs: an update of a small convolutional network, bare, watched, and watched with its gradient replayed.

    python benchmarks/check_overhead.py

The bound is 3x of a replayed update; `reference` outside a check must cost nothing. Rounds alternate; medians are printed.
"""

import statistics
import time
from contextlib import ExitStack

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from largebatch import check, core
from largebatch.recording import Recorder

UPDATES, ROUNDS, BATCH = 12, 7, 64


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
    )  # fmt: skip


def seconds(gradients: int | None) -> float:
    """One update's time; gradients None: nothing is installed, 0: watched, else every update replayed."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(UPDATES * BATCH, 1, 28, 28), torch.randint(0, 10, (UPDATES * BATCH,)))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with ExitStack() as stack:
        if gradients is not None:
            stack.enter_context(Recorder(gradients=gradients, stops=False).installed())
        check.reference(model, data, core.cross_entropy)
        begun = time.perf_counter()
        for inputs, targets in DataLoader(data, batch_size=BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        return (time.perf_counter() - begun) / UPDATES


def main() -> None:
    torch.set_num_threads(1)
    kinds: dict[str, int | None] = {"bare": None, "watched": 0, "replayed": UPDATES}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    seconds(None)
    for _ in range(ROUNDS):
        for name, gradients in kinds.items():
            times[name].append(seconds(gradients))
    bare = statistics.median(times["bare"])
    for name, measured in times.items():
        middle = statistics.median(measured)
        spread = f"min {1000 * min(measured):.2f}, max {1000 * max(measured):.2f}"
        print(f"{name:<9} {1000 * middle:7.2f} ms per update, {middle / bare:.2f} x bare ({spread})")


if __name__ == "__main__":
    main()
