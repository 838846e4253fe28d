"""Where the scaling rules have been seen to hold, and what to do outside.

* Few updates per epoch. Goyal et al. 2017 keep the error up to 8192 on ImageNet (156 updates per epoch) and lose 1.2
  points at 16k (78). On CIFAR-100, ResNet-18 with the linear rule and warmup loses 1.3 points at 2048 (24 updates per
  epoch), 2.6 at 4096 (12) and 11 at 8192 (6); logs of koitu/cs439-large-batch-SGD.
* The square-root rule for Adam holds while k(1−β₁) ≪ 1 (Malladi et al. 2022, arXiv 2205.10287).
* Beyond the critical batch more samples are spent than updates saved (McCandlish et al. 2018, arXiv 1812.06162).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from largebatch.recipe._epoch import updates_per_epoch
from largebatch.recipe._limits import TRAIN_SIZE

if TYPE_CHECKING:
    from largebatch.recipe._recipe import Recipe

__all__ = ["warnings_of"]

_FEWEST_UPDATES_PER_EPOCH = 20
_ADAM_LIMIT = 0.5


def warnings_of(recipe: "Recipe", train_size: int, critical_batch_size: float | None) -> Iterator[str]:
    """One sentence per way in which this recipe, later phases aside, lies outside the evidence.

    Raises:
        ValueError: for a train_size below 1.
    """
    TRAIN_SIZE(train_size)
    batch = recipe.global_batch_size
    updates = updates_per_epoch(train_size, batch)
    if updates < _FEWEST_UPDATES_PER_EPOCH:
        largest = train_size // _FEWEST_UPDATES_PER_EPOCH
        smaller = f"a batch of at most {largest}, or " if largest else ""
        yield (
            f"{updates} updates per epoch is outside the evidence: on CIFAR-100 the linear rule with warmup loses 1 point "
            f"at 24 updates per epoch, 3 at 12 and 11 at 6; take {smaller}more epochs "
            "(budget='updates' keeps the number of updates)"
        )
    k = batch / recipe.tuned_batch_size
    if recipe.optimizer in ("adam", "adamw") and k * (1 - recipe.beta1) > _ADAM_LIMIT:
        yield (
            f"k(1 − beta1) = {k * (1 - recipe.beta1):.3g} for k = {k:g} is above {_ADAM_LIMIT}: the square-root rule is "
            f"derived for small values of it (Malladi et al. 2022); tune lr anew around {recipe.lr:.3g}, or take a batch "
            f"of at most {int(_ADAM_LIMIT / (1 - recipe.beta1) * recipe.tuned_batch_size + 1e-9)}"
        )
    if critical_batch_size is not None and batch > critical_batch_size:
        yield (
            f"the batch of {batch} is above the measured critical batch of {critical_batch_size:.4g}: a larger batch "
            "now costs more samples than it saves updates; take a batch near the critical one unless time is all "
            "that counts"
        )
