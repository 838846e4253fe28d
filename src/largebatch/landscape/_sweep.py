"""Loss and metrics at many points Σ cᵢ·vᵢ of the span of a few vectors: what paths and planes are made of.

A point costs one forward pass over each data set, one more where batch-norm statistics are taken anew, and next to nothing
else: the combination is written into the parameters in place, without a graph or a new vector, and the host reads one
row per data set. What is not finite stays so: a point of a landscape may well be infinite, and no other number is it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from largebatch.core import Metric, Risk, spare_statistics, total, unflatten, weigh

__all__ = ["Evaluate", "combine", "coordinates", "sweep"]

Evaluate = Callable[[Sequence[float]], NDArray[np.float64]]
"""Coefficients → (risks, 2 + metrics): mean loss, its standard error over samples, the mean of each metric."""


def coordinates(name: str, span: tuple[float, float], points: int, through: Sequence[float]) -> tuple[float, ...]:
    """`points` equidistant coordinates over `span`, and those of `through` that they miss, hit exactly.

    Raises:
        ValueError: an empty span, one without the points it must go through, fewer than 2 points; lists every mistake.
    """
    low, high = span
    mistakes: list[str] = []
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        mistakes.append(f"{name}: expected finite bounds, the lower first, got ({low}, {high})")
    elif not all(low <= value <= high for value in through):
        wanted = " and ".join(f"{value:g}" for value in through)
        mistakes.append(
            f"{name}: expected a span that contains {wanted}, where the models are, got ({low:g}, {high:g})"
        )
    if points < 2:
        mistakes.append(f"{name}: expected at least 2 points, got {points}")
    if mistakes:
        raise ValueError("\n  ".join(mistakes))
    close = 1e-9 * (high - low) / (points - 1)
    even = [float(x) for x in np.linspace(low, high, points)]
    return tuple(sorted([x for x in even if all(abs(x - value) > close for value in through)] + list(through)))


def combine(target: list[Tensor], vectors: Sequence[list[Tensor]], coefficients: Sequence[float]) -> None:
    """target ← Σ cᵢ·vᵢ, in place; exactly vⱼ where cⱼ = 1 and the others are 0, for finite vectors.

    The first two vectors, as often as not the only ones, are read once and the target written once.
    """
    (first, second, *others), (c, d, *rest) = vectors, coefficients
    for part, v, w in zip(target, first, second, strict=True):
        if c == 1.0:
            torch.add(v, w, alpha=d, out=part)
        elif c == 1.0 - d:
            torch.lerp(v, w, d, out=part)
        else:
            torch.mul(v, c, out=part).add_(w, alpha=d)
    for vector, coefficient in zip(others, rest, strict=True):
        torch._foreach_add_(target, vector, alpha=coefficient)


@contextmanager
def sweep(
    risks: Sequence[Risk], vectors: Sequence[Tensor], metrics: Mapping[str, Metric], *, reestimated: bool
) -> Iterator[Evaluate]:
    """Inside, evaluate the risks at points of the span of `vectors`; on leaving the model is what it was, to the bit.

    Args:
        risks: on one model and of one batch-norm mode, "running" or "batch"; the first is the training risk.
        vectors: (P,) each.
        reestimated: take the running statistics anew at each point over the data of the first risk, for all of them.
    """
    first = risks[0]
    weights = [p.detach() for p in first.parameters]  # the same memory, without a graph
    parts = [unflatten(vector, weights) for vector in vectors]
    assert {risk.batch_norm for risk in risks} in ({"running"}, {"batch"})
    devices = [torch.cuda.current_device()] if first.device.type == "cuda" else []
    with first.displaced(), spare_statistics(first.model), ExitStack() as measuring:
        for risk in risks:  # examined at the model's own weights: elsewhere a loss may be NaN, and is kept
            measuring.enter_context(risk.measuring())

        def evaluate(coefficients: Sequence[float]) -> NDArray[np.float64]:
            combine(weights, parts, coefficients)
            if reestimated:
                first.reestimate()
            with torch.random.fork_rng(devices=devices):  # whatever a metric draws, it draws the same at every point
                return np.stack([_row(risk, metrics) for risk in risks])

        yield evaluate


@torch.no_grad()
def _row(risk: Risk, metrics: Mapping[str, Metric]) -> NDArray[np.float64]:
    """(2 + metrics,): mean loss r = Σ lᵢ / Σ wᵢ, its standard error, and the mean of each metric. Call inside `measuring`.

    lᵢ and wᵢ are the weighted loss and the weight of sample i; the error is that of a ratio of means to first order,
    √(n/(n−1)·Σ (lᵢ − r·wᵢ)²) / Σ wᵢ (Cochran 1977, section 2.11), which for wᵢ = 1 is the usual one of a mean.
    """
    risk.passes += 1 / 3
    sums = torch.zeros(6 + len(metrics), dtype=torch.float64, device=risk.device)
    for inputs, targets in risk.pieces():
        outputs = risk.model(inputs)
        values, weights = weigh(risk.loss(outputs, targets), len(inputs))
        loss, weight = total(values, weights)
        mass = torch.ones_like(values) if weights is None else weights
        each = (values * mass).reshape(len(inputs), -1).double().sum(dim=1)  # (n,)
        mass = mass.reshape(len(inputs), -1).double().sum(dim=1)  # (n,)
        row = [loss, weight, len(inputs), each @ each, each @ mass, mass @ mass]
        row += [metric(outputs, targets).sum() for metric in metrics.values()]
        sums += torch.stack([torch.as_tensor(x, dtype=torch.float64, device=risk.device) for x in row])
    found = risk.world.sum(sums).cpu().numpy()
    with np.errstate(all="ignore"):
        loss, weight, seen, loss_loss, loss_weight, weight_weight = found[:6]
        mean = loss / weight
        squares = np.maximum(loss_loss - 2 * mean * loss_weight + mean**2 * weight_weight, 0.0)
        stderr = np.sqrt(seen / (seen - 1) * squares) / weight
    return np.concatenate([[mean, stderr], found[6:] / seen])
