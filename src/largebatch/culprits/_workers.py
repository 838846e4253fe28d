"""What changes with the number of workers and should not: found by a second run at another number.

The order of samples, and the batch that batch norm sees, are a choice that others make too; they are also why results at
two worker counts cannot be compared (Goyal et al. 2017, arXiv 1706.02677, sections 2.3 and 2.5).
"""

from largebatch.culprits._evidence import Evidence
from largebatch.culprits._verdict import Finding

__all__ = ["batch_norm_batch_changes", "order_depends_on_workers"]


def order_depends_on_workers(run: Evidence, other: Evidence) -> Finding | None:
    """The same number of samples, but not the same samples."""
    mine, theirs = _seen_after(run), _seen_after(other)
    common = sorted(set(mine) & set(theirs))
    total = run.data_size or max([*mine, *theirs], default=0)
    for samples in common:
        if samples < total and mine[samples] != theirs[samples]:
            return Finding(
                "order_depends_on_workers", "unusual",
                f"the first {samples} samples of an epoch are others with {other.world_size} worker(s) than with "
                f"{run.world_size}: {len(mine[samples] - theirs[samples])} of them differ",
                "draw one permutation per epoch from (seed, epoch) alone and split global batches over the workers: "
                "a DistributedSampler at one worker too, instead of shuffle=True",
            )  # fmt: skip
    return None


def _seen_after(run: Evidence) -> dict[int, frozenset[int]]:
    """The set of samples after so many samples of epoch 1; empty where indices are not known."""
    seen: set[int] = set()
    after: dict[int, frozenset[int]] = {}
    read = 0
    for update in run.updates:
        if update.epoch != 1 or not all(part.indices for part in update.micro_batches):
            break
        for part in update.micro_batches:
            seen.update(part.indices)
            read += len(part.indices)
        after[read] = frozenset(seen)
    return after


def batch_norm_batch_changes(run: Evidence, other: Evidence) -> Finding | None:
    """Batch norm normalises over as many samples as a micro-batch has, and that number moves with W."""
    here, there = _largest(run), _largest(other)
    if not run.has_batch_norm or not here or not there or here == there:
        return None
    return Finding(
        "batch_norm_batch_changes", "unusual",
        f"batch norm sees {here} samples with {run.world_size} worker(s) and {there} with {other.world_size}",
        "its batch is a hyper-parameter of the loss: keep it with ghost batch norm, "
        "largebatch.core.swap_batchnorm(model, ghost_batch_size=32)",
        ratio=here / there,
    )  # fmt: skip


def _largest(run: Evidence) -> int:
    return max((part.samples for update in run.updates for part in update.micro_batches), default=0)
