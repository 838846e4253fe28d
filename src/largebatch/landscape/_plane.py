"""Plane: train and test loss around a model in two directions, x + s·d₁ + t·d₂.

Li et al. 2018 (arXiv 1712.09913), section 4, with filter-normalised random directions; or through the directions given,
such as b − a and c − a for the plane of three models, or two eigenvectors of the Hessian. The coordinates are real ones:
(0, 0) is a point of the grid and is the model itself, and the value of a cell is the loss at its coordinates and
nowhere else.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from largebatch.core import BatchNormMode, Data, Measured, Metric, Risk, data_size, has_batch_norm, progress, stopwatch
from largebatch.landscape._cells import Cells
from largebatch.landscape._directions import Normalisation, cosine, given_directions, random_directions
from largebatch.landscape._sweep import Evaluate, coordinates, sweep

__all__ = ["Plane", "plane"]

Grid = tuple[tuple[float, ...], ...]
Span = tuple[float, float]


@dataclass(frozen=True)
class Plane(Measured):
    """Losses over a plane. Cell [i][j] is at (xs[i], ys[j]); what is not finite was so when measured.

    Args:
        xs, ys: coordinates along the first and the second direction, in units of its length; 0 is in both.
        train_loss, test_loss: (xs, ys), means over the samples; `test_loss` is empty without test data.
        train_stderr, test_stderr: their standard errors over samples, as if drawn from a population.
        train_metrics, test_metrics: each metric's mean over the samples.
        lengths: Euclidean norms of the two directions.
        cosine: of the two directions.
        normalisation: of the directions: "filter", "layer", "none".
        seed: of random directions; -1 where they were given.
        test_samples: as `samples`, of the test data.
        test_passes: as `passes`, over the test samples; both of this call, where it went on from a file.
    """

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    train_loss: Grid
    train_stderr: Grid
    test_loss: Grid
    test_stderr: Grid
    train_metrics: dict[str, Grid]
    test_metrics: dict[str, Grid]
    lengths: tuple[float, float]
    cosine: float
    normalisation: str
    seed: int
    test_samples: int
    test_passes: float


def plane(
    risk: Risk,
    *,
    directions: Sequence[Tensor] | None = None,
    spans: Span | tuple[Span, Span] = (-1.0, 1.0),
    points: int | tuple[int, int] = (11, 11),
    normalisation: Normalisation | None = None,
    seed: int = 0,
    test: Data | None = None,
    metrics: Mapping[str, Metric] | None = None,
    resume: str | Path | None = None,
) -> Plane:
    """Measure losses over a plane through the model's present weights, which it leaves as they are.

    Args:
        risk: of the training data; its parameters span the plane, its batch-norm mode holds in every cell.
            "reestimated" takes the statistics anew at each point over the training data, at the cost of one more forward
            pass, and uses them for `test` too.
        directions: two of shape (P,), taken as they are; None draws two, orthogonal before they are normalised.
        spans: of the coordinates, one for both or one each; contain 0.
        points: of the grid along each direction; 0 is added where an even number misses it.
        normalisation: "filter", "layer" (the whole tensor) or "none"; None means "filter" for random directions and
            "none" for given ones. Normalised directions leave biases and norm parameters where they are.
        seed: of random directions.
        test: held-out data.
        metrics: more per-example figures.
        resume: an npz file that keeps the finished cells. Where it exists the measurement goes on from it, after one cell,
            the model's own, was compared.

    Raises:
        ValueError: spans without 0, directions that span no plane, a file of another plane, a model that gives two
            answers.
    """
    xs, ys = _axes(spans, points, normalisation)
    way: Normalisation = normalisation or ("filter" if directions is None else "none")
    used = risk.batch_norm if has_batch_norm(risk.model) else "none"
    told = {} if metrics is None else dict(metrics)
    risks = _risks(risk, "batch" if used == "batch" else "running", test)
    with risks[0].measuring():  # examined before directions are scaled to weights that may not be finite
        pass
    found = random_directions(risk, way, seed) if directions is None else given_directions(risk, directions, way)
    cells = Cells(
        (len(xs), len(ys), len(risks), 2 + len(told)),
        _identity(risk, found, grid=(xs, ys), sizes=[data_size(r.data) for r in risks], used=used, metrics=list(told)),
        None if resume is None else Path(resume), world=risk.world, device=risk.device,
    )  # fmt: skip
    with (
        stopwatch(risks[0]) as watch,
        sweep(risks, [risk.point(), *found], told, reestimated=used == "reestimated") as evaluate,
    ):
        _fill(cells, xs, ys, evaluate, "" if resume is None else str(resume))
    risk.passes += watch.passes
    table = cells.table
    return Plane(
        xs=xs, ys=ys, train_loss=_grid(table[:, :, 0, 0]), train_stderr=_grid(table[:, :, 0, 1]),
        test_loss=() if test is None else _grid(table[:, :, 1, 0]),
        test_stderr=() if test is None else _grid(table[:, :, 1, 1]),
        train_metrics={name: _grid(table[:, :, 0, 2 + i]) for i, name in enumerate(told)},
        test_metrics={} if test is None else {name: _grid(table[:, :, 1, 2 + i]) for i, name in enumerate(told)},
        lengths=(float(found[0].double().norm()), float(found[1].double().norm())), cosine=cosine(*found),
        normalisation=way, seed=seed if directions is None else -1,
        test_samples=sum(r.samples for r in risks[1:]), test_passes=sum(r.passes for r in risks[1:]),
        **watch.conditions(used), note=_note(used, table[..., 0]),
    )  # fmt: skip


def _axes(
    spans: Span | tuple[Span, Span], points: int | tuple[int, int], normalisation: str | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    first, second = spans
    pair = (first, second) if isinstance(first, tuple) and isinstance(second, tuple) else (spans, spans)
    counts = (points, points) if isinstance(points, int) else points
    axes: list[tuple[float, ...]] = []
    mistakes: list[str] = []
    if normalisation is not None and normalisation not in get_args(Normalisation):
        mistakes.append(f"normalisation: expected one of {', '.join(get_args(Normalisation))}, got {normalisation!r}")
    for name, span, count in zip(("spans[0]", "spans[1]"), pair, counts, strict=True):
        try:
            axes.append(coordinates(name, span, count, through=(0.0,)))  # pyright: ignore[reportArgumentType]
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ValueError("\n  ".join(mistakes))
    return axes[0], axes[1]


def _risks(risk: Risk, mode: BatchNormMode, test: Data | None) -> list[Risk]:
    """Train, then test. Of our own: where statistics are taken anew, the sweep does it once for both."""
    return [
        Risk(
            risk.model, risk.loss, data, parameters=risk.names, batch_norm=mode, batch_size=risk.batch_size,
            world=risk.world,
        )
        for data in ([risk.data] if test is None else [risk.data, test])
    ]  # fmt: skip


def _fill(cells: Cells, xs: Sequence[float], ys: Sequence[float], evaluate: Evaluate, name: str) -> None:
    """Compute the cells that are missing, the model's own first.

    Raises:
        ValueError: the model's own cell in the file is not what the model gives.
    """
    centre = xs.index(0.0), ys.index(0.0)
    own = evaluate((1.0, 0.0, 0.0))
    if cells.computed[centre] and not np.allclose(cells.table[centre], own, rtol=1e-5, atol=1e-8, equal_nan=True):
        raise ValueError(
            f"{name}: its cell of the model itself holds {cells.table[centre][:, 0].tolist()} where the model gives "
            f"{own[:, 0].tolist()}: other data or another loss; name another file, or delete this one"
        )
    cells.put(centre, own)
    missing = [cell for cell in np.ndindex(len(xs), len(ys)) if not cells.computed[cell]]
    with progress(f"plane of {len(xs)} × {len(ys)}", len(missing), "cells") as bar:
        for i, j in missing:
            cells.put((i, j), evaluate((1.0, xs[i], ys[j])))
            bar.update()


def _identity(
    risk: Risk,
    directions: Sequence[Tensor],
    *,
    grid: Sequence[Sequence[float]],
    sizes: Sequence[int],
    used: str,
    metrics: Sequence[str],
) -> dict[str, str]:
    batch_size = risk.batch_size if used in ("batch", "reestimated") else 0  # elsewhere it changes no value
    return {
        "weights": _digest(*risk.model.parameters(), *risk.model.buffers()),
        "directions": _digest(*directions),
        "grid": repr(grid),
        "numbers of samples": repr(sizes),
        "metrics": repr(metrics),
        "batch-norm mode": f"{used} {batch_size}",
        "dtype": str(risk.dtype),
    }


def _digest(*tensors: Tensor) -> str:
    state = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def _note(used: str, losses: NDArray[np.float64]) -> str:
    notes: list[str] = []
    if used == "running":
        notes.append("every cell uses the model's own running statistics")
    if used == "batch":
        notes.append("values depend on the batch size, and standard errors treat the coupled samples as independent")
    bad = int((~np.isfinite(losses)).any(axis=-1).sum())
    if bad:
        notes.append(f"not finite in {bad} of {losses[..., 0].size} cells")
    return "; ".join(notes)


def _grid(values: NDArray[np.float64]) -> Grid:
    return tuple(tuple(row) for row in values.tolist())
