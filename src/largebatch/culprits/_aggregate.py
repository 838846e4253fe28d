"""How an applied gradient combines the micro-batches: the weighting, the factor, and what was added.

The exact weighting is c_i = 1/N with N = Σ n_i. The others here are those that trainers are known to use instead; they
are the same where all counts are equal. A weighting is recognised up to a factor, and the factor is looked at afterwards:

    a = s·Σ_i c_i·G_i + λ_1·w_matrices + λ_2·w_vectors + κ·a_previous
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np

from largebatch.culprits._evidence import Evidence, Update, Vector

__all__ = ["WEIGHTINGS", "WITH_UNUSED_LABELS", "Fit", "fit", "fits", "is_close", "own_gradient"]

Weighting = Callable[[Update, int], Vector]


def _global(update: Update, world_size: int) -> Vector:
    return np.full(len(update.sums), 1 / update.counts.sum())


def _by_position(update: Update, world_size: int) -> Vector:
    """Exact over the ranks in every accumulation step, but a plain mean over the steps."""
    positions = _positions(update)
    totals = np.bincount(positions, weights=update.counts)
    return 1 / (update.accumulation * totals[positions])


def _by_rank(update: Update, world_size: int) -> Vector:
    """Exact over the steps of each rank, but a plain mean over the ranks."""
    totals = np.bincount(update.ranks, weights=update.counts, minlength=world_size)
    return 1 / (world_size * totals[update.ranks])


def _by_micro_batch(update: Update, world_size: int) -> Vector:
    """The mean of the means of all micro-batches."""
    return 1 / (world_size * update.accumulation * np.maximum(update.counts, 1e-300))


def _by_rank_and_micro_batch(update: Update, world_size: int) -> Vector:
    """The same where ranks make unequal numbers of steps, and each divides by its own."""
    steps = np.bincount(update.ranks, minlength=world_size)
    return 1 / (world_size * steps[update.ranks] * np.maximum(update.counts, 1e-300))


def _by_rank_with_unused_labels(update: Update, world_size: int) -> Vector:
    """By rank, over tokens and one label more of each sample: the first of a text is predicted by nothing."""
    labels = update.counts + [part.samples for part in update.micro_batches]
    totals = np.bincount(update.ranks, weights=labels, minlength=world_size)
    return 1 / (world_size * totals[update.ranks])


def _positions(update: Update) -> np.ndarray:
    seen: dict[int, int] = {}
    positions = []
    for part in update.micro_batches:
        positions.append(seen.get(part.rank, 0))
        seen[part.rank] = positions[-1] + 1
    return np.array(positions, dtype=np.int64)


WITH_UNUSED_LABELS = "ranks, with labels that have no loss,"
WEIGHTINGS: dict[str, Weighting] = {
    "global": _global,
    "steps": _by_position,
    "ranks": _by_rank,
    "micro-batches": _by_micro_batch,
    "ranks and their micro-batches": _by_rank_and_micro_batch,
    WITH_UNUSED_LABELS: _by_rank_with_unused_labels,
}
"""Weightings by what is averaged plainly, the exact one first."""


@dataclass(frozen=True)
class Fit:
    """What explains an applied gradient.

    Args:
        weighting: a name of WEIGHTINGS; "" where none of them fits.
        scale: s, against that weighting; NaN where none fits.
        decay: λ for matrices and for vectors.
        carried: κ, the share of the gradient before.
        deviation: ‖a − g‖/‖g‖.
    """

    weighting: str
    scale: float
    decay: tuple[float, float] = (0.0, 0.0)
    carried: float = 0.0
    deviation: float = 0.0

    @property
    def is_exact(self) -> bool:
        """Nothing but the exact mean times a factor."""
        return self.weighting == "global" and not any(self.decay) and not self.carried


def is_close(value: float, expected: float, tolerance: float = 2e-3) -> bool:
    """Relative."""
    return abs(value - expected) <= tolerance * abs(expected)


def fits(run: Evidence) -> list[tuple[Update, Fit]]:
    """Every update that has a reference, with what explains rank 0's gradient. Joint passes have one if it fits."""
    found = [(update, fit(update, run.world_size)) for update in run.updates if update.is_judged]
    return [
        (update, fitted)
        for update, fitted in found
        if not update.is_joint or (fitted.is_exact and is_close(fitted.scale, 1, max(2e-3, update.tolerance)))
    ]


def fit(update: Update, world_size: int, rank: int = 0) -> Fit:
    """The simplest explanation of what rank `rank` applied: a weighting alone, then with decay, then with the update "
    "before."""
    return _fit(_Key(update), world_size, rank)


class _Key:
    """An update by identity, for arrays have no hash; the cache does not keep it alive."""

    def __init__(self, update: Update):
        self._update = weakref.ref(update)
        self._id = id(update)

    @property
    def update(self) -> Update:
        """The update; only of a key that is being looked up."""
        return cast(Update, self._update())

    def __hash__(self) -> int:
        return self._id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other._update() is self._update()


@lru_cache(maxsize=4096)
def _fit(key: _Key, world_size: int, rank: int) -> Fit:
    update = key.update
    applied = update.applied[rank]
    deviation = float(np.linalg.norm(applied - update.reference) / max(np.linalg.norm(update.reference), 1e-300))
    limit = rounding(update) * float(np.linalg.norm(applied))
    added = [("decay", row) for row in update.weights if row.any()], [("previous", update.previous)]
    weights = _distinct(update, world_size)
    for extra in ([], *[terms for terms in added if terms and all(row.any() for _, row in terms)]):
        fitting: list[tuple[float, Fit]] = []
        for name, shares in weights.items():
            columns = np.stack([shares @ update.sums, *[row for _, row in extra]], axis=1)
            solution, *_ = np.linalg.lstsq(columns, applied, rcond=None)
            residual = float(np.linalg.norm(columns @ solution - applied))
            if residual <= limit and solution[0]:
                scale, rest = float(solution[0]), iter(map(float, solution[1:]))
                carried = next(rest) if extra and extra[0][0] == "previous" else 0.0
                matrices, vectors = (next(rest, 0.0) if row.any() else 0.0 for row in update.weights)
                fitting.append((residual, Fit(name, scale, (matrices, vectors), carried, deviation)))
        if fitting:
            return _simplest(fitting, max(2e-3, update.tolerance))
    return Fit("", float("nan"), deviation=deviation)


def _simplest(fitting: list[tuple[float, Fit]], tolerance: float) -> Fit:
    """The first; in half precision several may fit, and one that needs no factor and is much nearer explains more."""
    residual, first = fitting[0]
    if is_close(first.scale, 1, tolerance):
        return first
    return next((fit for off, fit in fitting if is_close(fit.scale, 1, tolerance) and off < residual / 2), first)


def _distinct(update: Update, world_size: int) -> dict[str, Vector]:
    """Weights by name, without those that are an earlier one times a factor."""
    found: dict[str, Vector] = {}
    for name, weighting in WEIGHTINGS.items():
        weights = weighting(update, world_size)
        if not any(
            np.allclose(weights / weights.sum(), other / other.sum(), rtol=1e-9, atol=0) for other in found.values()
        ):
            found[name] = weights
    return found


def rounding(update: Update) -> float:
    """Relative error of the applied gradient that rounding explains: more where the micro-batches cancel."""
    parts = float(np.linalg.norm(update.sums, axis=1).sum() / update.counts.sum())
    return max(update.tolerance, 4e-6 * parts / max(float(np.linalg.norm(update.reference)), 1e-300))


def own_gradient(update: Update, rank: int) -> bool:
    """Whether a rank applied the gradient of its own samples alone, up to a factor."""
    mine = update.ranks == rank
    if not mine.any():
        return False
    applied, sums, counts = update.applied[rank], update.sums[mine], update.counts[mine]
    limit = rounding(update) * np.linalg.norm(applied)
    for mean in (sums.sum(0), (sums / np.maximum(counts, 1e-300)[:, None]).sum(0)):
        scale = float(applied @ mean / max(float(mean @ mean), 1e-300))
        if np.linalg.norm(applied - scale * mean) <= limit and scale:
            return True
    return False
