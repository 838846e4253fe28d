"""What a recipe must satisfy: the limits of each field, the rules that join fields, and what the data allow."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from largebatch.recipe._duration import Duration, duration_reader
from largebatch.recipe._epoch import in_samples
from largebatch.recipe._fields import Reader, Rule, flag, number, one_of, optional, tuple_of, whole
from largebatch.recipe._mistakes import located
from largebatch.recipe._schedule import schedule_reader, warmup_reader

if TYPE_CHECKING:
    from largebatch.recipe._recipe import Recipe

__all__ = ["BATCH", "RECIPE_READERS", "RECIPE_RULES", "SCALING_RULES", "TRAIN_SIZE", "mistakes_for"]

SCALING_RULES = ("auto", "linear", "sqrt", "none")

_ABOVE_0 = number("a finite number above 0", lambda value: value > 0)
_FROM_0 = number("a finite number of at least 0", lambda value: value >= 0, "0 turns it off")
_SHARE = number("a number from 0 up to but not including 1", lambda value: 0 <= value < 1)

BATCH = whole(1, "give the number of samples in one update over all workers")
TRAIN_SIZE = whole(1, "give the number of training samples")


def _length(value: object) -> Duration:
    duration = duration_reader(value)
    if duration.value == 0 or duration.unit == "dur":
        raise ValueError(
            f"expected a length above 0 in ep, steps or samples, got {str(duration)!r}; give for example 90ep"
        )
    return duration


def _augmentation(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"flip|(shift|crop):[1-9]\d*", value):
        raise ValueError(f"expected flip, shift:N or crop:N with N pixels, got {value!r}; write for example crop:4")
    return value


RECIPE_READERS: Mapping[str, Reader] = {
    "global_batch_size": BATCH,
    "lr": number("a finite rate above 0", lambda value: value > 0, "rates usually lie between 1e-4 and 10"),
    "optimizer": one_of(("sgd", "adam", "adamw", "lars", "lamb")),
    "momentum": _SHARE,
    "nesterov": flag,
    "beta1": _SHARE,
    "beta2": _SHARE,
    "eps": _ABOVE_0,
    "weight_decay": _FROM_0,
    "decay_norm_and_bias": flag,
    "trust_coefficient": _ABOVE_0,
    "momentum_convention": one_of(("torch", "paper")),
    "duration": _length,
    "schedule": schedule_reader,
    "warmup": warmup_reader,
    "ghost_batch_size": optional(whole(2, "batch norm needs two samples; None normalises over the whole global batch")),
    "precision": one_of(("fp32", "bf16", "fp64")),
    "label_smoothing": _SHARE,
    "clip_norm": optional(number("None or a finite norm above 0", lambda value: value > 0, "None turns it off")),
    "augment": tuple_of(_augmentation, "a tuple of augmentations"),
    "sam_rho": _FROM_0,
    "proximal_strength": _FROM_0,
    "proximal_steps": whole(1, "Keskar et al. take 3"),
    "rule": one_of(SCALING_RULES),
    "batch": one_of(("fixed", "follow-noise")),
}


def _ghost_fits_the_batch(recipe: "Recipe") -> str | None:
    if (recipe.ghost_batch_size or 0) <= recipe.global_batch_size:
        return None
    return (
        f"ghost_batch_size: expected at most the global batch of {recipe.global_batch_size}, "
        f"got {recipe.ghost_batch_size}; set ghost_batch_size to at most that or None"
    )


def _nesterov_has_momentum(recipe: "Recipe") -> str | None:
    if recipe.optimizer != "sgd" or not recipe.nesterov or recipe.momentum > 0:
        return None
    return "nesterov: expected a momentum above 0 with it, got momentum 0; set nesterov=False or momentum=0.9"


def _convention_is_used(recipe: "Recipe") -> str | None:
    if recipe.momentum_convention == "torch" or recipe.optimizer == "lars":
        return None
    return (
        f"momentum_convention: expected 'torch' for {recipe.optimizer!r}, because only LARS has two forms in use, "
        f"got {recipe.momentum_convention!r}; leave it out"
    )


def _warmup_rises(recipe: "Recipe") -> str | None:
    if recipe.warmup.start_lr <= recipe.lr:
        return None
    return (
        f"warmup.start_lr: expected at most the peak rate lr={recipe.lr:g}, got {recipe.warmup.start_lr:g}; "
        "lower it, or write warmup=none"
    )


def _one_inner_problem(recipe: "Recipe") -> str | None:
    if math.prod((recipe.sam_rho, recipe.proximal_strength)) == 0:
        return None
    return (
        f"sam_rho: expected 0 together with proximal_strength={recipe.proximal_strength:g}, because each redefines the "
        f"update, got {recipe.sam_rho:g}; set one of the two to 0"
    )


def _state_can_be_carried(recipe: "Recipe") -> str | None:
    following = recipe.then
    if following is None or following.carry != "all" or following.recipe.optimizer == recipe.optimizer:
        return None
    return (
        f"then.carry: expected 'weights' where the optimiser changes from {recipe.optimizer!r} to "
        f"{following.recipe.optimizer!r}, got 'all'; the state of one means nothing to the other, carry weights only"
    )


RECIPE_RULES: Sequence[Rule] = (
    (("global_batch_size", "ghost_batch_size"), _ghost_fits_the_batch),
    (("optimizer", "momentum", "nesterov"), _nesterov_has_momentum),
    (("optimizer", "momentum_convention"), _convention_is_used),
    (("lr", "warmup"), _warmup_rises),
    (("sam_rho", "proximal_strength"), _one_inner_problem),
    (("optimizer", "then"), _state_can_be_carried),
)


def mistakes_for(recipe: "Recipe", train_size: int) -> Iterator[str]:
    """What keeps a recipe, later phases aside, from being trained on so many samples."""
    try:
        TRAIN_SIZE(train_size)
    except ValueError as error:
        yield from located("train_size", error)
        return
    batch = recipe.global_batch_size
    if batch > train_size:
        yield (
            f"global_batch_size: expected at most the {train_size} samples of the training data, got {batch}; "
            "take a smaller batch or more data"
        )
    milestones = recipe.schedule.milestones
    samples = [in_samples(milestone, train_size, batch, recipe.duration) for milestone in milestones]
    if any(later <= earlier for earlier, later in pairwise(samples)):
        yield (
            f"schedule.milestones: expected each later than the one before it, got {', '.join(map(str, milestones))}, "
            f"which on {train_size} samples are {', '.join(f'{value:g}' for value in samples)}; put them in order"
        )
