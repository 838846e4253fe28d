"""Culprits of aggregation that are no factor: ranks on their own, micro-batches lost or kept, decay inside the loss.

Decay: Goyal et al. 2017 (arXiv 1706.02677), section 2.5, remark 1: an L2 term inside the loss is multiplied with the
loss, while the decay of the optimiser is not; scaling the loss is then not scaling the rate.
"""

import numpy as np

from largebatch.culprits._aggregate import Fit, fits, is_close, own_gradient, rounding
from largebatch.culprits._evidence import Evidence, Update
from largebatch.culprits._verdict import Finding

__all__ = ["decay_scaled_with_loss", "gradients_not_averaged", "micro_batches_lost", "passes_in_one_backward",
           "unexplained_gradient",
           "weights_moved", "zero_grad_forgotten"]  # fmt: skip


def ranks_differ(update: Update) -> bool:
    """Whether two ranks applied different gradients."""
    off = np.linalg.norm(update.applied - update.applied[0], axis=1).max(initial=0.0)
    return bool(off > rounding(update) * np.linalg.norm(update.applied, axis=1).max(initial=0.0))


def gradients_not_averaged(run: Evidence) -> Finding | None:
    """Every rank steps on its own samples only."""
    for update, _ in fits(run):
        if run.world_size > 1 and not update.is_averaged:
            alone = [rank for rank in range(len(update.applied)) if own_gradient(update, rank)]
            if not alone:
                continue
            return Finding(
                "gradients_not_averaged", "wrong",
                f"update {update.number}: worker {alone[0]} applied the gradient of its own samples alone",
                "wrap the model in DistributedDataParallel and call the wrapped model (not model.module, and not inside "
                "no_sync() in the last micro-batch), or all_reduce the gradients before every step",
                update=update.number, rank=alone[0],
            )  # fmt: skip
    return None


def zero_grad_forgotten(run: Evidence) -> Finding | None:
    """The gradients of the update before are still there; under a GradScaler, as many times smaller as it scales."""
    for update, fit in fits(run):
        if fit.carried > 0:
            return Finding(
                "zero_grad_forgotten", "wrong",
                f"update {update.number}: your gradient is {fit.scale:.3g} × the reference plus {fit.carried:.3g} × the "
                f"gradient of the update before",
                "call optimizer.zero_grad() once after every optimizer.step()",
                update=update.number,
            )  # fmt: skip
    return None


def micro_batches_lost(run: Evidence) -> Finding | None:
    """Some micro-batches of a window are not in the gradient: zero_grad inside the window, or no_sync misplaced."""
    for update, fit in fits(run):
        lost = _lost(update) if not fit.weighting and not ranks_differ(update) else []
        if lost:
            what = ", ".join(f"{position + 1} of worker {rank}" for rank, position in lost)
            return Finding(
                "micro_batches_lost", "wrong",
                f"update {update.number}: {len(lost)} of {len(update.sums)} micro-batches are not in your gradient "
                f"(number {what})",
                "zero the gradients once per update, before its first micro-batch; keep no_sync() for all micro-batches but "
                "the last",
                update=update.number, rank=lost[0][0] if len({rank for rank, _ in lost}) == 1 else None,
            )  # fmt: skip
    return None


def _lost(update: Update) -> list[tuple[int, int]]:
    """(rank, position) of the micro-batches with weight 0, where some weighting of the others explains everything."""
    shares = _shares(update)
    seen: dict[int, int] = {}
    lost: list[tuple[int, int]] = []
    for part, share in zip(update.micro_batches, shares, strict=False):
        position = seen.get(part.rank, 0)
        seen[part.rank] = position + 1
        if abs(share) < 0.01 * max(map(abs, shares)):
            lost.append((part.rank, position))
    return lost


def _shares(update: Update) -> list[float]:
    """How much of its due weight each micro-batch has in rank 0's gradient; [] where no weighting explains that."""
    weights, *_ = np.linalg.lstsq(update.sums.T, update.applied[0], rcond=None)
    off = float(np.linalg.norm(update.sums.T @ weights - update.applied[0]))
    if off > rounding(update) * np.linalg.norm(update.applied[0]):
        return []
    return [float(weight) * float(update.counts.sum()) for weight in weights]


def decay_scaled_with_loss(run: Evidence) -> Finding | None:
    """An L2 term inside the loss is multiplied with it."""
    decayed = [(update, fit) for update, fit in fits(run) if any(fit.decay)]
    off = next(((update, fit) for update, fit in decayed if not is_close(fit.scale, 1)), None) or _unequal(decayed)
    if off is None:
        return None
    update, fit = off
    decay = max(fit.decay, key=abs)
    return Finding(
        "decay_scaled_with_loss", "wrong",
        f"update {update.number}: your gradient is {fit.scale:.3g} × the reference plus {decay:.3g} × the weights: the "
        "decay "
        f"is inside the loss and is multiplied with it, or with the number of its parts",
        "take the penalty out of the loss and give it to the optimizer as weight_decay, which no factor on the loss reaches",
        update=update.number, ratio=fit.scale,
    )  # fmt: skip


def _unequal(decayed: list[tuple[Update, Fit]]) -> tuple[Update, Fit] | None:
    """An update whose decay is another than the first one's, though the data part is right: it is added once per part."""
    for update, fit in decayed:
        first = decayed[0][1]
        if not is_close(max(fit.decay, key=abs), max(first.decay, key=abs), 0.02):
            return update, fit
    return None


def unexplained_gradient(run: Evidence) -> Finding | None:
    """No combination of the micro-batches: most likely the loss that was given is not the loss that is trained."""
    for update, fit in fits(run):
        if fit.weighting or _lost(update):
            continue
        rank = None if not ranks_differ(update) else 0
        if rank is not None and own_gradient(update, 0):
            continue
        shares = ", ".join(f"{share:.3g}" for share in _shares(update))
        how = (
            f"it weighs its {len(update.sums)} micro-batches {shares} times as much as it should"
            if shares
            else f"no weighting of its {len(update.sums)} micro-batches gives it"
        )
        return Finding(
            "unexplained_gradient",
            "wrong",
            f"update {update.number}: your gradient is {100 * fit.deviation:.3g} % off the reference, and {how}",
            "is the loss given to check.reference the one you train (class weights, label smoothing, mixup, extra terms), "
            "and are the gradients changed by hand before the step?",
            update=update.number,
            rank=rank,
        )
    return None


def passes_in_one_backward(run: Evidence) -> Finding | None:
    """Several forward passes in one backward pass, as R-Drop and siamese losses make them: the loss may join them."""
    joint = next((update for update in run.updates if update.is_joint), None)
    if joint is None or any(update is joint for update, _ in fits(run)):
        return None
    return Finding(
        "passes_in_one_backward", "unusual",
        f"update {joint.number}: one backward pass went through several forward passes, and the gradient is not the mean of "
        "theirs; it was not held against a reference",
        "nothing, if the loss has terms of several passes (R-Drop, siamese, contrastive): it is no sum over micro-batches",
        update=joint.number,
    )  # fmt: skip


def weights_moved(run: Evidence) -> Finding | None:
    """Two passes at different weights per update, as SAM makes them: nothing to compare with."""
    moved = [update for update in run.updates if update.is_moved]
    if not moved or any(update.is_judged for update in run.updates):
        return None
    return Finding(
        "weights_moved", "unusual",
        f"update {moved[0].number}: the weights changed between a forward pass and the step, as SAM changes them; the "
        f"gradient was not held against a reference",
        "check the loop once with the plain inner optimizer; `largebatch check --optimizer module:Class` checks SAM itself",
        update=moved[0].number,
    )  # fmt: skip
