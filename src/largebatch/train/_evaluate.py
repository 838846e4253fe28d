"""Exact evaluation: every sample once, sums over all ranks divided once by the global count. No padding, no repeats."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn

from largebatch.core import Loader, Task, World, total, weigh

__all__ = ["EVALUATION_SAMPLES", "evaluate"]

EVALUATION_SAMPLES = 2048  # in one pass


@torch.no_grad()
def evaluate(
    model: nn.Module,
    task: Task,
    loader: Loader,
    samples: int,
    world: World,
    *,
    autocast: Callable[[], AbstractContextManager[object]],
    device: torch.device,
    batch_size: int,
) -> dict[str, float]:
    """`{"loss": …, each metric: …}` over `samples` samples, in evaluation mode; the mode is left as it was.

    Ranks take contiguous shares that differ by at most one sample; each may be empty.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(3 + len(task.metrics), dtype=torch.float64, device=device)  # loss, weight, samples, metrics
    start, stop = samples * world.rank // world.size, samples * (world.rank + 1) // world.size
    for inputs, targets in loader.slices(start, stop, batch_size):
        with autocast():
            outputs = model(inputs)
            values, weights = weigh(task.loss(outputs, targets), len(inputs))
        value, count = total(values.double(), None if weights is None else weights.double())
        row = [
            value,
            count,
            len(inputs),
            *(metric(outputs, targets).double().sum() for metric in task.metrics.values()),
        ]
        sums += torch.stack([torch.as_tensor(x, dtype=torch.float64, device=device) for x in row])
    model.train(was_training)
    loss, weight, seen, *metrics = world.sum(sums).tolist()
    return {"loss": loss / weight} | {name: value / seen for name, value in zip(task.metrics, metrics, strict=True)}
