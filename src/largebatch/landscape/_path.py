"""Path: train and test loss between two sets of weights, along a line or a curve.

Keskar et al. 2017 (arXiv 1609.04836), figure 3 and appendix D: with x_a the small-batch and x_b the large-batch solution

    line   f(α·x_b + (1 − α)·x_a),                25 values of α in [−1, 2]
    curve  f(sin(απ/2)·x_b + cos(απ/2)·x_a)

The barrier is the largest rise of the training loss over the straight line between the ends' losses, for α in [0, 1]: the
error barrier of Frankle et al. 2020 (arXiv 1912.05671), with the line in place of the ends' mean, so that unequal ends do
not count as a barrier (Entezari et al. 2022, arXiv 2110.06296).

Only weights are points of a path; the running statistics of batch norms belong to them. Interpolating the weights and
keeping one end's statistics joins two models wrongly at the other end (the warning of Li et al. 2018, arXiv 1712.09913).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from largebatch.core import (
    BatchNormMode,
    Data,
    Loss,
    Measured,
    Metric,
    Risk,
    World,
    has_batch_norm,
    progress,
    stopwatch,
)
from largebatch.landscape._endpoints import Weights, endpoints, point, statistics
from largebatch.landscape._sweep import combine, coordinates, sweep

__all__ = ["Path", "path"]

Kind = Literal["line", "curve"]


@dataclass(frozen=True)
class Path(Measured):
    """Losses along a path, at each α. What is not finite was so when measured.

    Args:
        kind: "line" or "curve".
        alphas: 0 is a, 1 is b.
        train_loss, test_loss: means over the samples; `test_loss` is empty without test data.
        train_stderr, test_stderr: their standard errors over samples, as if drawn from a population.
        train_metrics, test_metrics: each metric's mean over the samples.
        barrier: largest rise of the training loss over the straight line between the ends' losses, α in [0, 1].
        barrier_alpha: where.
        distance: ‖x_b − x_a‖.
        angle_degrees: between x_a and x_b, seen from the origin.
        start_cosine: of x_a − x_0 and x_b − x_0; NaN where no start was given.
        test_samples: as `samples`, of the test data.
        test_passes: as `passes`, over the test samples.
    """

    kind: str
    alphas: tuple[float, ...]
    train_loss: tuple[float, ...]
    train_stderr: tuple[float, ...]
    test_loss: tuple[float, ...]
    test_stderr: tuple[float, ...]
    train_metrics: dict[str, tuple[float, ...]]
    test_metrics: dict[str, tuple[float, ...]]
    barrier: float
    barrier_alpha: float
    distance: float
    angle_degrees: float
    start_cosine: float
    test_samples: int
    test_passes: float


def path(
    a: Weights,
    b: Weights,
    *,
    loss: Loss,
    train: Data,
    model: nn.Module | None = None,
    test: Data | None = None,
    metrics: Mapping[str, Metric] | None = None,
    kind: Kind = "line",
    points: int = 25,
    span: tuple[float, float] = (-1.0, 2.0),
    batch_norm: BatchNormMode = "reestimated",
    start: Weights | None = None,
    batch_size: int = 1024,
    dtype: torch.dtype | None = None,
    world: World | None = None,
) -> Path:
    """Measure losses between two models of one architecture. No model given is touched: it works on copies.

    Args:
        a, b: the ends: models, state_dicts, or (P,) points of the parameters that require gradients.
        loss: one value per example, or (values, weights).
        train: the training data; their loss makes the barrier.
        model: the architecture; may be left out where `a` or `b` is a model.
        test: held-out data.
        metrics: more per-example figures, such as `{"accuracy": core.accuracy}`.
        kind: "line" or "curve".
        points: values of α, evenly over `span`; 0 and 1 are added where they are missed.
        span: of α; contains 0 and 1.
        batch_norm: "reestimated": running statistics taken anew over `train` at each point, at the cost of one more
            forward pass, and used for `train` and `test`; "running": interpolated linearly in α, whatever the kind (where
            that makes a variance negative, the loss is NaN); "batch": those of each batch.
        start: where both runs began, for the angle between their ways.
        batch_size: samples in one pass.
        dtype: measure in it, such as torch.float64.
        world: each rank takes a contiguous share of the data; all must call alike.

    Raises:
        ValueError: weights of other architectures or not finite, options that are none, a model that gives two answers.
    """
    template = next((m for m in (model, a, b) if isinstance(m, nn.Module)), None)
    _refuse_options(template, kind, batch_norm)
    assert template is not None
    alphas = coordinates("span", span, points, through=(0.0, 1.0))
    ends = endpoints(template, {"a": a, "b": b} | ({} if start is None else {"start": start}), dtype)
    used = batch_norm if has_batch_norm(template) else "none"
    mode: BatchNormMode = "batch" if used == "batch" else "running"
    risks = [
        Risk(ends["a"], loss, data, batch_norm=mode, batch_size=batch_size, world=world)
        for data in ([train] if test is None else [train, test])
    ]
    told = {} if metrics is None else dict(metrics)
    vectors = {name: point(end) for name, end in ends.items()}
    with stopwatch(risks[0]) as watch:
        table = _table(risks, ends, vectors, told, alphas=alphas, kind=kind, used=used)
    barrier, barrier_alpha = _barrier(np.array(alphas), table[:, 0, 0])
    return Path(
        kind=kind, alphas=alphas, train_loss=_floats(table[:, 0, 0]), train_stderr=_floats(table[:, 0, 1]),
        test_loss=() if test is None else _floats(table[:, 1, 0]),
        test_stderr=() if test is None else _floats(table[:, 1, 1]),
        train_metrics={name: _floats(table[:, 0, 2 + i]) for i, name in enumerate(told)},
        test_metrics={} if test is None else {name: _floats(table[:, 1, 2 + i]) for i, name in enumerate(told)},
        barrier=barrier, barrier_alpha=barrier_alpha, **_geometry(vectors),
        test_samples=sum(risk.samples for risk in risks[1:]), test_passes=sum(risk.passes for risk in risks[1:]),
        **watch.conditions(used), note=_note(used, np.array(alphas), table[:, :, 0]),
    )  # fmt: skip


def _table(
    risks: Sequence[Risk],
    ends: Mapping[str, nn.Module],
    vectors: Mapping[str, Tensor],
    metrics: Mapping[str, Metric],
    *,
    alphas: Sequence[float],
    kind: str,
    used: str,
) -> NDArray[np.float64]:
    """(alphas, risks, 2 + metrics), measured in the model of the end a, which comes back as it was."""
    rows: list[NDArray[np.float64]] = []
    known = [statistics(ends["a"]), statistics(ends["b"])]
    with (
        sweep(risks, [vectors["a"], vectors["b"]], metrics, reestimated=used == "reestimated") as evaluate,
        progress(f"{kind} of {len(alphas)} points", len(alphas), "points") as bar,
    ):
        spare = statistics(ends["a"])
        for alpha in alphas:
            if used == "running" and spare:
                combine(spare, known, (1.0 - alpha, alpha))
            rows.append(evaluate(_coefficients(kind, alpha)))
            bar.update()
    return np.stack(rows)


def _refuse_options(template: nn.Module | None, kind: str, batch_norm: str) -> None:
    mistakes: list[str] = []
    if template is None:
        mistakes.append("model: expected the architecture to put the weights into, got none; give model=")
    if kind not in get_args(Kind):
        mistakes.append(f"kind: expected one of {', '.join(get_args(Kind))}, got {kind!r}")
    if batch_norm not in get_args(BatchNormMode):
        mistakes.append(f"batch_norm: expected one of {', '.join(get_args(BatchNormMode))}, got {batch_norm!r}")
    if mistakes:
        raise ValueError("\n  ".join(mistakes))


def _coefficients(kind: str, alpha: float) -> tuple[float, float]:
    """Of x_a and x_b. cos(απ/2) is written as a sine, which is 0 at α = 1 without rounding."""
    if kind == "line":
        return 1.0 - alpha, alpha
    return math.sin((1.0 - alpha) * math.pi / 2), math.sin(alpha * math.pi / 2)


def _barrier(alphas: NDArray[np.float64], losses: NDArray[np.float64]) -> tuple[float, float]:
    """Height and place. A NaN on the way makes the height NaN, and the place is where it stands."""
    between = (alphas >= 0) & (alphas <= 1)
    inner, here = alphas[between], losses[between]
    with np.errstate(invalid="ignore"):
        rise = here - ((1 - inner) * here[0] + inner * here[-1])
    highest = int(np.argmax(rise))
    return float(rise[highest]), float(inner[highest])


def _geometry(vectors: Mapping[str, Tensor]) -> dict[str, float]:
    a, b = vectors["a"].double(), vectors["b"].double()
    start = vectors["start"].double() if "start" in vectors else None
    cosine = min(max(_cosine(a, b), -1.0), 1.0)
    return {
        "distance": float(torch.linalg.vector_norm(b - a)),
        "angle_degrees": math.degrees(math.acos(cosine)),
        "start_cosine": math.nan if start is None else _cosine(a - start, b - start),
    }


def _cosine(u: Tensor, v: Tensor) -> float:
    return float(u @ v / (torch.linalg.vector_norm(u) * torch.linalg.vector_norm(v)))


def _note(used: str, alphas: NDArray[np.float64], losses: NDArray[np.float64]) -> str:
    notes: list[str] = []
    if used == "running":
        notes.append("running statistics are interpolated linearly between the ends'")
    if used == "batch":
        notes.append("values depend on the batch size, and standard errors treat the coupled samples as independent")
    bad = alphas[~np.isfinite(losses).all(axis=1)]
    if len(bad):
        notes.append(f"not finite at α = {', '.join(f'{alpha:.4g}' for alpha in bad)}")
    return "; ".join(notes)


def _floats(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
