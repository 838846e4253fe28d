"""Culprits of aggregation: the right mean times a wrong factor, or a mean of means.

Goyal et al. 2017 (arXiv 1706.02677), section 2.5, remark 3. A factor hides easily: rates are tuned around it until the
number of ranks or of accumulation steps changes. Each hypothesis predicts the factor of *every* update, short last
windows included, so that a run often tells apart what one update cannot; where it cannot either, all that fit are named.
"""

from collections.abc import Callable

import numpy as np

from largebatch.culprits._aggregate import WITH_UNUSED_LABELS, Fit, fits, is_close
from largebatch.culprits._evidence import Evidence, Update
from largebatch.culprits._verdict import Finding

__all__ = ["FACTORS", "accumulation_divided_twice", "accumulation_not_divided", "divided_by_workers_twice", "explanations",
           "labels_without_loss_counted", "loss_scale_not_removed", "mean_of_means", "not_divided_by_count",
           "short_last_window", "summed_over_workers", "unknown_factor"]  # fmt: skip

WEIGHTED_MEAN = (
    " (the factor varies: torch's mean under class weights or ignore_index divides by the sum of the weights; return "
    "(values, w) there, the losses without their weights and w = weight[target], 0 where it is ignored)"
)

Factor = Callable[[Update, Evidence], float]


def _share_with_loss(update: Update, run: Evidence) -> float:
    """Of the labels, one more a sample than there are losses."""
    losses = float(update.counts.sum())
    return losses / (losses + update.samples) if run.unit == "tokens" else 1.0


FACTORS: dict[str, Factor] = {
    "summed_over_workers": lambda update, run: run.world_size,
    "divided_by_workers_twice": lambda update, run: 1 / run.world_size,
    "accumulation_not_divided": lambda update, run: update.accumulation,
    "accumulation_divided_twice": lambda update, run: 1 / update.accumulation,
    "short_last_window": lambda update, run: update.accumulation / run.accumulation,
    "loss_scale_not_removed": lambda update, run: max((step.loss_scale for step in update.steps), default=1.0),
    "labels_without_loss_counted": _share_with_loss,
}
"""What the gradient is multiplied by, under each culprit."""


_COUNTS: tuple[Factor, ...] = (
    lambda update, run: update.counts.sum(),
    lambda update, run: update.counts.sum() / run.world_size,
    lambda update, run: update.counts.sum() / update.accumulation,
    lambda update, run: update.counts.sum() / (run.world_size * update.accumulation),
)
"""Of a summed loss, under the averages over ranks and steps that the script may still make."""


def explanations(run: Evidence, other: Evidence | None = None) -> list[tuple[str, ...]]:
    """The culprits, or pairs of them, whose factors are those of all updates of this run, and of another at other workers.

    The simplest ones: a pair is returned only where no single culprit fits. Empty if every factor is 1. What explains this
    run alone counts where nothing explains both, for a script may take another path at another number of workers.
    """
    return (_explanations([run, other]) if other is not None else []) or _explanations([run])


def _explanations(runs: list[Evidence]) -> list[tuple[str, ...]]:
    seen = [(update, fit, run) for run in runs for update, fit in _scaled(run)]
    if all(_is_factor(update, fit, 1) for update, fit, _ in seen):
        return []
    singles = [(name,) for name, factor in FACTORS.items() if _agrees([factor], seen)]
    if any(_agrees([factor], seen) for factor in _COUNTS):
        singles.append(("not_divided_by_count",))
    if singles:
        return singles
    names = list(FACTORS)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return [
        (a, b) for a, b in pairs if _matters(a, seen) and _matters(b, seen) and _agrees([FACTORS[a], FACTORS[b]], seen)
    ]


def _scaled(run: Evidence) -> list[tuple[Update, Fit]]:
    """Updates with a factor of their own: labels without a loss, counted on each rank, are one where the ranks are equal."""
    found = [(update, fit) for update, fit in fits(run) if fit.weighting]
    if all(fit.weighting != WITH_UNUSED_LABELS for _, fit in found):
        return found
    return [(update, fit) for update, fit in found if not _is_factor(update, fit, _share_with_loss(update, run))]


def _is_factor(update: Update, fit: Fit, factor: float) -> bool:
    """Up to rounding, which is coarse in half precision."""
    return is_close(fit.scale, factor, max(2e-3, update.tolerance))


def _agrees(factors: list[Factor], seen: list[tuple[Update, Fit, Evidence]]) -> bool:
    return all(
        _is_factor(update, fit, float(np.prod([factor(update, run) for factor in factors])))
        for update, fit, run in seen
    )


def _matters(name: str, seen: list[tuple[Update, Fit, Evidence]]) -> bool:
    return any(FACTORS[name](update, run) != 1 for update, _, run in seen)


def _first_off(run: Evidence) -> tuple[Update, Fit] | None:
    """The update whose factor is farthest from 1; the first of equals."""
    off = [(update, fit) for update, fit in _scaled(run) if not _is_factor(update, fit, 1)]
    return max(off, key=lambda pair: round(abs(np.log(abs(pair[1].scale))), 6), default=None)


def _finding(run: Evidence, other: Evidence | None, name: str, cause: str, fix: str) -> Finding | None:
    """The finding of one factor, if it is among the explanations; another that fits as well is named too."""
    found = explanations(run, other)
    mine = next((names for names in found if name in names), None)
    off = _first_off(run)
    if mine is None or off is None:
        return None
    update, fit = off
    others = tuple(names[0] for names in found if len(names) == 1 and names[0] != name) if len(mine) == 1 else ()
    also = f" (together with {' and '.join(n for n in mine if n != name)})" if len(mine) > 1 else ""
    return Finding(
        name,
        "wrong",
        f"update {update.number}: your gradient is {fit.scale:.3g} × the reference: {_filled(cause, update, run)}{also}",
        _filled(fix, update, run),
        update=update.number,
        ratio=fit.scale,
        others=others,
    )


def _filled(text: str, update: Update, run: Evidence) -> str:
    return text.format(W=run.world_size, A=update.accumulation, full=run.accumulation, n=f"{update.counts.sum():g}",
                       unit=run.unit)  # fmt: skip


def summed_over_workers(run: Evidence, other: Evidence | None = None) -> Finding | None:
    """The gradients of W ranks are added up and not divided, or a W is multiplied in that DDP never took out."""
    return _finding(
        run, other, "summed_over_workers",
        "it was summed over the {W} workers and not divided by their number",
        "DDP averages over workers already: do not multiply the loss by the world size unless you divide by the global "
        "count yourself; after an all_reduce(SUM) of your own divide by the world size",
    )  # fmt: skip


def divided_by_workers_twice(run: Evidence, other: Evidence | None = None) -> Finding | None:
    """DDP averages, and the script divides by W (or by the global count, and forgets to undo the average)."""
    return _finding(
        run, other, "divided_by_workers_twice",
        "it was divided by the {W} workers twice",
        "DDP averages over workers already: divide by this worker's count, or divide the sum by the global count and "
        "multiply "
        "by the world size to undo the average",
    )  # fmt: skip


def accumulation_not_divided(run: Evidence, other: Evidence | None = None) -> Finding | None:
    """Gradients add up over the accumulation steps and nobody divides."""
    return _finding(
        run, other, "accumulation_not_divided",
        "the loss was not divided by the {A} accumulation steps",
        "divide each micro-batch's loss by the number of micro-batches in its window, or better: sum the losses and "
        "divide by the count of the whole window",
    )  # fmt: skip


def accumulation_divided_twice(run: Evidence, other: Evidence | None = None) -> Finding | None:
    """The script divides and so does its trainer."""
    return _finding(
        run, other, "accumulation_divided_twice",
        "the loss was divided by the {A} accumulation steps twice",
        "your trainer divides by the accumulation steps already (accelerator.backward, Lightning and the HF Trainer do): "
        "return the undivided loss",
    )  # fmt: skip


def short_last_window(run: Evidence, other: Evidence | None = None) -> Finding | None:
    """The last window of an epoch has fewer micro-batches and is divided by the full number all the same."""
    return _finding(
        run, other, "short_last_window",
        "the last window of the epoch has {A} micro-batches and was divided by {full}",
        "divide by the number of micro-batches (better: samples) the window really has, or drop what does not fill one",
    )  # fmt: skip


def loss_scale_not_removed(run: Evidence, other: Evidence | None = None) -> Finding | None:
    """The optimiser stepped on gradients of the scaled loss."""
    return _finding(
        run, other, "loss_scale_not_removed",
        "it still carries the loss scale of the GradScaler",
        "step with scaler.step(optimizer), which unscales; or call scaler.unscale_(optimizer) first",
    )  # fmt: skip


def labels_without_loss_counted(run: Evidence, other: Evidence | None = None) -> Finding | None:
    """The mean over tokens divides by all labels, of which the first of every text has no loss."""
    return _finding(
        run, other, "labels_without_loss_counted",
        "the {n} tokens were divided by their number and one more for every sample",
        "count the labels that have a loss: a causal language model predicts labels[..., 1:], so count those that are not "
        "ignored",
    )  # fmt: skip


def not_divided_by_count(run: Evidence, other: Evidence | None = None) -> Finding | None:
    """A summed loss: the gradient grows with the batch."""
    return _finding(
        run, other, "not_divided_by_count",
        "the losses were summed over {unit} and not divided by their number ({n} in this update)",
        "divide the sum by the global count: a rate tuned on a sum holds for one batch size only",
    )  # fmt: skip


def unknown_factor(run: Evidence, other: Evidence | None = None) -> Finding | None:
    """A factor that no known mistake gives. Clipping by hand gives every clipped gradient the same norm, and is none."""
    off = _first_off(run)
    if off is None or explanations(run, other):
        return None
    shortened = [u for u, fit in _scaled(run) if not is_close(fit.scale, 1) and fit.scale < 1]
    norms = [float(np.linalg.norm(update.applied[0])) for update in shortened]
    if len(norms) > 1 and max(norms) - min(norms) < 1e-3 * max(norms):
        return None
    update, fit = off
    evidence = (
        f"update {update.number}: your gradient is {fit.scale:.4g} × the reference, which is no factor of {run.world_size} "
        f"worker(s), {update.accumulation} micro-batch(es) or {update.counts.sum():g} {run.unit}"
    )
    scales = [fit.scale for update, fit in _scaled(run) if not _is_factor(update, fit, 1)]
    if len(scales) == 1 and fit.scale < 1:
        return Finding(
            "unknown_factor", "unusual", f"{evidence}: it may have been scaled by hand, as clipping does",
            "nothing, if your loop clips gradients itself; otherwise look for a factor on the loss or on the gradients",
            update=update.number, ratio=fit.scale,
        )  # fmt: skip
    return Finding(
        "unknown_factor", "wrong", evidence,
        "look for a factor on the loss or on the gradients; a weight on the loss belongs into the loss you gave "
        f"check.reference{WEIGHTED_MEAN if max(scales) > 1.001 * min(scales) else ''}",
        update=update.number, ratio=fit.scale,
    )  # fmt: skip


def mean_of_means(run: Evidence, other: Evidence | None = None) -> Finding | None:
    """Means over unequal counts are averaged plainly, so that a sample in a small batch weighs more."""
    found = [(update, fit) for update, fit in fits(run) if fit.weighting not in ("", "global")]
    if not found:
        return None
    update, fit = max(found, key=lambda pair: pair[1].deviation)
    counts = ", ".join(f"{count:g}" for count in update.counts)
    off = np.linalg.norm(update.applied[0] / fit.scale - update.reference) / np.linalg.norm(update.reference)
    return Finding(
        "mean_of_means", "wrong",
        f"update {update.number}: your gradient is {100 * off:.2g} % off the reference: it is the plain mean over "
        f"{fit.weighting} of means over unequal counts of {run.unit} ({counts})",
        f"add up the losses of all {run.unit} and divide once by the count of the whole update, over all workers and "
        f"accumulation steps (under DDP times the world size)",
        update=update.number, ratio=fit.scale,
    )  # fmt: skip
