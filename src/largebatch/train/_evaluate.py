"""Exact evaluation: every sample once, sums over all ranks divided once by the global count. No padding, no repeats."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from largebatch.core import Loader, Task, World, is_out_of_memory, total, weigh

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

    Ranks take contiguous shares that differ by at most one sample; each may be empty. Out of memory halves the batch.

    Raises:
        ValueError: every target of the split is masked.
    """
    was_training = model.training
    model.eval()
    start, stop = samples * world.rank // world.size, samples * (world.rank + 1) // world.size
    while True:
        try:
            sums = torch.zeros(3 + len(task.metrics), dtype=torch.float64, device=device)
            for inputs, targets in loader.slices(start, stop, batch_size):
                with autocast():
                    outputs = model(inputs)
                    values, weights = weigh(task.loss(outputs, targets), len(inputs))
                sums += _row(task, outputs, targets, values, weights)
            break
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or batch_size == 1:
                raise
            batch_size //= 2
    model.train(was_training)
    loss, weight, seen, *metrics = world.sum(sums).tolist()
    if weight == 0:
        raise ValueError(
            f"task {task.name}: expected a target that counts among {samples} samples of a split, but the "
            "weights of the loss are all 0: unmask some, or leave the split out"
        )
    return {"loss": loss / weight} | {name: value / seen for name, value in zip(task.metrics, metrics, strict=True)}


def _row(task: Task, outputs: Tensor, targets: Tensor, values: Tensor, weights: Tensor | None) -> Tensor:
    """Loss, weights, samples, then each metric, summed over a batch; (3 + metrics,) float64."""
    value, count = total(values.double(), None if weights is None else weights.double())
    metrics = [metric(outputs, targets).double().sum() for metric in task.metrics.values()]
    row = [value, count, len(values), *metrics]
    return torch.stack([torch.as_tensor(x, dtype=torch.float64, device=value.device) for x in row])
