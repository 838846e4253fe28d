"""Culprits of clipping: what is clipped must be the whole gradient, aggregated and unscaled.

Clipping is not linear: the clipped sum is not the sum of the clipped parts, so its place decides what is trained. (The
order was wrong in diffusers #721, verl #436, torchtune #2420.)
"""

from largebatch.culprits._evidence import Clip, Evidence, Step, Update
from largebatch.culprits._verdict import Finding

__all__ = ["clipped_before_averaging", "clipped_per_micro_batch", "clipped_while_scaled", "is_explained_by_clipping"]


def _acting(run: Evidence) -> list[tuple[Update, Step, Clip]]:
    return [(u, step, clip) for u in run.updates for step in u.steps for clip in step.clips if clip.acted]


def clipped_per_micro_batch(run: Evidence) -> Finding | None:
    """Clipping in every accumulation step."""
    for update, step, clip in _acting(run):
        steps = sum(part.rank == step.rank for part in update.micro_batches)
        if 0 < clip.position < steps:
            return Finding(
                "clipped_per_micro_batch", "wrong",
                f"update {update.number}: gradients were clipped from {clip.norm:.3g} to {clip.limit:.3g} after micro-batch "
                f"{clip.position} of {steps}",
                "clip once per update, after the last backward pass and before optimizer.step()",
                update=update.number, rank=step.rank, ratio=clip.limit / clip.norm,
            )  # fmt: skip
    return None


def clipped_before_averaging(run: Evidence) -> Finding | None:
    """The ranks clip gradients of different norm: they have not been averaged yet."""
    for update in run.updates:
        last = [step.clips[-1] for step in update.steps if step.clips]
        norms = [clip.norm for clip in last]
        if (
            update.is_averaged
            and len(last) > 1
            and any(clip.acted for clip in last)
            and max(norms) - min(norms) > 1e-3 * max(norms)
        ):
            return Finding(
                "clipped_before_averaging", "wrong",
                f"update {update.number}: the workers clipped gradients of norm "
                f"{', '.join(f'{norm:.3g}' for norm in norms)}: each clipped its own before they were averaged",
                "average the gradients over the workers first (the last backward pass outside no_sync(), or your "
                "all_reduce), "
                "then clip",
                update=update.number,
            )  # fmt: skip
    return None


def clipped_while_scaled(run: Evidence) -> Finding | None:
    """Clipping the gradients of the scaled loss: the limit then depends on the loss scale."""
    for update, step, clip in _acting(run):
        if clip.is_scaled and step.loss_scale != 1:
            return Finding(
                "clipped_while_scaled", "wrong",
                f"update {update.number}: gradients were clipped at {clip.limit:.3g} while they carried the loss scale "
                f"{step.loss_scale:g}: after unscaling the limit is {clip.limit / step.loss_scale:.3g}",
                "call scaler.unscale_(optimizer) before clipping",
                update=update.number, rank=step.rank, ratio=1 / step.loss_scale,
            )  # fmt: skip
    return None


def is_explained_by_clipping(finding: Finding) -> bool:
    """Whether a finding about the gradient follows from clipping at the wrong place."""
    return finding.culprit in (
        "unknown_factor", "unexplained_gradient", "micro_batches_lost", "mean_of_means",
        "decay_scaled_with_loss", "zero_grad_forgotten", "loss_scale_not_removed",
    )  # fmt: skip
