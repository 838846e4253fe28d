"""When a run has diverged: judged from its losses alone, so that a quiet 17 % accuracy is not reported as a result.

Diverged = a loss that is not finite, or a median train loss of an epoch ≥ 0.9 × the trivial loss, in any epoch after the
second or in the last one. The trivial loss is that of predicting the class frequencies; where a task has none, the loss
at the start. The step named is the first whose loss exceeds 3 × the initial one.

An epoch of fewer than 20 updates is judged together with those before it, from the 60th update on: with the whole data set
as batch an epoch is one update, and gradient descent that is merely slow, or leaves the edge of stability for a moment,
has not diverged.
"""

import math
from dataclasses import dataclass, field
from statistics import median

import torch

from largebatch.core import Task

__all__ = ["ADVICE", "LossHistory", "trivial_loss"]

MOST_CLASSES = 1 << 24  # beyond, integers are identifiers rather than classes
CHECKED_CLASSES = 16
JUDGED_UPDATES = 20  # at least, for a median

ADVICE = "try gradual warmup (recipe.at brings it), a lower rate or a smaller batch"


@dataclass
class LossHistory:
    """What the judgement needs of the past; part of the checkpoint."""

    initial: float | None = None
    first_excess: int | None = None  # update whose loss first exceeded 3 × the initial one
    recent: list[float] = field(default_factory=list[float])  # losses of the last epoch, or of the last 20 updates

    def judge(self, losses: list[float], first_update: int, *, epoch: int, is_last: bool, trivial: float | None) -> str:
        """Why the run has diverged, in words, or "" if it has not.

        Args:
            losses: of consecutive updates, the first of which is number `first_update`; a whole epoch for the median.
            epoch: counted from 0; negative while the epoch is not complete, when only non-finite losses count.
            trivial: loss of predicting the class frequencies, None where there is none.
        """
        if not losses:
            return ""
        if self.initial is None:
            self.initial = losses[0]
        for update, loss in enumerate(losses, first_update):
            if self.first_excess is None and loss > 3 * self.initial:
                self.first_excess = update
            if not math.isfinite(loss):
                return f"diverged at step {self._named(update)}: the loss is {loss} at step {update}{self._spike()}"
        if epoch < 0:
            return ""
        self.recent = [*self.recent, *losses][-max(len(losses), JUDGED_UPDATES) :]
        is_ripe = epoch >= 2 and (len(losses) >= JUDGED_UPDATES or first_update + len(losses) >= 3 * JUDGED_UPDATES)
        reference = self.initial if trivial is None else trivial
        if (is_ripe or is_last) and median(self.recent) >= 0.9 * reference:
            when = f"in epoch {epoch + 1}"
            if len(losses) < len(self.recent):
                when = f"over the last {len(self.recent)} updates, to epoch {epoch + 1},"
            kind = "the loss at the start" if trivial is None else "predicting the class frequencies"
            return (
                f"diverged at step {self._named(first_update)}: median train loss {median(self.recent):.3g} {when} "
                f"is no better than 0.9 × {reference:.3g}, {kind}{self._spike()}"
            )
        return ""

    def _named(self, update: int) -> int:
        return update if self.first_excess is None else self.first_excess

    def _spike(self) -> str:
        return (
            "" if self.first_excess is None else f"; step {self.first_excess} was the first above 3 × the initial loss"
        )


def trivial_loss(task: Task) -> float | None:
    """Loss of predicting the training set's class frequencies; None where the task's loss is no cross-entropy over classes.

    Classes are int64 targets: (n,) or, per token, (n, tokens); of a data set, its `targets`.
    """
    targets = task.train[1] if isinstance(task.train, tuple) else getattr(task.train, "targets", None)
    if targets is None:
        return None
    targets = torch.as_tensor(targets).cpu()
    if targets.dtype != torch.int64 or targets.dim() not in (1, 2) or not 0 <= int(targets.max()) < MOST_CLASSES:
        return None
    counts = torch.bincount(targets[targets >= 0].reshape(-1)).double()
    classes = len(counts)
    middle = (1,) * (targets.dim() - 1)
    frequencies = counts / counts.sum()
    # Cross-entropy of that prediction is −log of the target's frequency, and its mean the entropy. Another loss over
    # integers (a margin, a regression) gives some number too, but not that one: a few classes tell, without classes² logits.
    common = frequencies.topk(min(classes, CHECKED_CLASSES)).indices
    logits = frequencies.clamp_min(1e-30).log().view(1, *middle, classes).expand(len(common), *middle, classes)
    try:
        result = task.loss(logits, common.view(-1, *middle))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None  # a loss over something other than one logit for each class
    values = result[0] if isinstance(result, tuple) else result
    expected = -frequencies[common].clamp_min(1e-30).log()
    if values.numel() != len(common) or not torch.allclose(values.reshape(-1).double(), expected, rtol=1e-4, atol=1e-6):
        return None
    return float(torch.special.entr(frequencies).sum())
