"""Recipe: hyper-parameters at one global batch size, frozen; `at` gives those of another."""
# ruff: noqa: RUF009 (the calls in the class bodies make descriptors, not defaults that instances would share)

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

from largebatch.recipe._duration import Duration, DurationField
from largebatch.recipe._evidence import warnings_of
from largebatch.recipe._fields import instance_of, one_of, optional, settle, tuple_of
from largebatch.recipe._limits import RECIPE_READERS, RECIPE_RULES, mistakes_for
from largebatch.recipe._mistakes import RecipeError, did_you_mean, located
from largebatch.recipe._overrides import override
from largebatch.recipe._scaling import Budget, Change, moves, nested, own, record, restated
from largebatch.recipe._schedule import Schedule, ScheduleField, Warmup, WarmupField

__all__ = ["Phase", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How to train, at one **global** batch size: the samples of one update over all workers.

    Durations, schedules and warmups may be given as text ("90ep", "step(30ep,60ep,80ep)", "gradual(5ep,start_lr=0.1)").

    Args:
        global_batch_size: samples per update, over all workers.
        lr: the peak learning rate at this batch.
        optimizer: "sgd", "adam", "adamw", "lars" or "lamb".
        momentum: of SGD and LARS.
        nesterov: for SGD (Goyal et al. 2017, section 5.1).
        beta1, beta2, eps: of Adam, AdamW and LAMB, as in torch.
        weight_decay: coupled (an L2 penalty) for sgd, adam and lars, decoupled for adamw and lamb.
        decay_norm_and_bias: whether it also acts on normalisation and bias parameters (Goyal: no).
        trust_coefficient: of LARS (You et al. 2017, arXiv 1708.03888: 1e-3).
        momentum_convention: of LARS. "paper" has the rate inside the momentum buffer, v ← m·v + η·r·g; "torch" outside,
            w ← w − η·v. They differ whenever the rate changes.
        duration: of this phase.
        schedule: how the rate falls.
        warmup: how it rises.
        ghost_batch_size: samples per virtual worker, over which batch norm takes its statistics (Goyal's n = 32);
            None: over the whole global batch.
        precision: "fp32", "bf16" (autocast) or "fp64".
        label_smoothing: share of the target given to all classes alike.
        clip_norm: the largest norm of the aggregated gradient; None: no limit.
        augment: any of "flip", "shift:N", "crop:N", N in pixels.
        sam_rho: radius of sharpness-aware minimisation (Foret et al. 2021, arXiv 2010.01412: 0.05); 0: off.
        proximal_strength: λ of the conservative step (Keskar et al. 2017, appendix E); 0: off.
        proximal_steps: inner steps that solve it.
        rule: how the rate scales with the batch; "auto": linear for sgd, sqrt for adam, adamw and lamb, none for lars.
        batch: "fixed", or "follow-noise": between epochs it grows, in doublings, up to the measured noise scale (McCandlish
            et al. 2018, arXiv 1812.06162), and what must move with it moves by the recipe's rule.
        then: the phase that follows.
        changes: what `at` moved since the batch this recipe was tuned at. Not part of equality.

    Raises:
        ValueError: with every mistake, a line each.
    """

    global_batch_size: int
    lr: float
    optimizer: Literal["sgd", "adam", "adamw", "lars", "lamb"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = False
    trust_coefficient: float = 1e-3
    momentum_convention: Literal["torch", "paper"] = "torch"
    duration: DurationField = DurationField(Duration(90, "ep"))
    schedule: ScheduleField = ScheduleField(Schedule())
    warmup: WarmupField = WarmupField(Warmup())
    ghost_batch_size: int | None = 32
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    augment: tuple[str, ...] = ()
    sam_rho: float = 0.0
    proximal_strength: float = 0.0
    proximal_steps: int = 3
    rule: Literal["auto", "linear", "sqrt", "none"] = "auto"
    batch: Literal["fixed", "follow-noise"] = "fixed"
    then: "Phase | None" = None
    changes: tuple[Change, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        settle(self, "recipe", _READERS, RECIPE_RULES)

    @property
    def tuned_batch_size(self) -> int:
        """The global batch size this recipe was derived from; its own where it was not derived."""
        origin = [change.before for change in self.changes if change.field == "global_batch_size"]
        return int(origin[0] or 0) if origin else self.global_batch_size

    def at(
        self,
        batch: int,
        *,
        budget: Budget = "epochs",
        rule: Literal["auto", "linear", "sqrt", "none"] | None = None,
        warmup: Warmup | str | None = "auto",
    ) -> "Recipe":
        """The recipe for another global batch size, with everything moved that must move; `changes` lists it.

        The rules and their sources stand at the top of `_scaling.py`. Later phases scale by the same factor k; they
        get no new warmup, because they continue a network that has left its early, fast-changing time.

        Args:
            batch: the new global batch size.
            budget: "epochs" keeps the samples, "updates" keeps the number of updates (Hoffer et al. 2017).
            rule: overrides the recipe's own for the rate; "none" keeps all but the batch and brings no warmup.
            warmup: "auto" keeps the recipe's own, else brings Goyal's gradual one where the batch grows; "keep"
                brings none; a Warmup (or its text) is used as it is; None drops it.

        Returns:
            The new recipe. `at(a).at(b)` is `at(b)` for a ≤ b, and `at(b).at(a)` restores what `at(b)` changed.

        Raises:
            ValueError: with every mistake in the arguments, and for LARS without a declared rule.
        """
        moved = list(moves(self, batch, budget=budget, rule=rule, warmup=warmup))
        values, changes = record(own(self.changes), self, moved)
        then = self.then
        if then is not None:
            following = max(1, round(then.recipe.global_batch_size * batch / self.global_batch_size))
            then = dataclasses.replace(then, recipe=then.recipe.at(following, budget=budget, rule=rule, warmup="keep"))
        return dataclasses.replace(self, **values, then=then, changes=(*changes, *nested(then)))

    def replace(self, **values: Any) -> "Recipe":
        """A copy with these fields set by hand; `changes` says so where it speaks of them.

        Raises:
            ValueError: for an unknown field, or with every mistake of the new recipe.
        """
        _refuse_unknown("recipe", values, self)
        copy = dataclasses.replace(self, **values)
        return dataclasses.replace(copy, changes=(*restated(own(copy.changes), copy), *nested(copy.then)))

    def override(self, assignments: Iterable[str]) -> "Recipe":
        """A copy with fields set from texts such as "lr=0.2", "warmup.start_lr=0", "then.recipe.lr=0.1".

        What `--set` does. A leading "recipe." is allowed; "none" stands for None.

        Raises:
            ValueError: with every mistake.
        """
        return override(self, assignments)

    def warnings(self, train_size: int, *, critical_batch_size: float | None = None) -> tuple[str, ...]:
        """Where this recipe, or a phase after it, lies outside the evidence, with advice.

        Args:
            train_size: samples in the training data.
            critical_batch_size: as measured by `probe`, if it was.

        Raises:
            ValueError: for a train_size below 1.
        """
        own_warnings = warnings_of(self, train_size, critical_batch_size)
        later = self.then.recipe.warnings(train_size, critical_batch_size=critical_batch_size) if self.then else ()
        return (*own_warnings, *(f"then: {warning}" for warning in later))

    def validate_for(self, train_size: int) -> None:
        """Refuse what cannot be trained on this many samples, in this phase and those after it.

        Raises:
            ValueError: with every mistake.
        """
        mistakes = list(mistakes_for(self, train_size))
        if self.then is not None:
            try:
                self.then.recipe.validate_for(train_size)
            except ValueError as error:
                mistakes += located("then.recipe", error)
        if mistakes:
            raise RecipeError("recipe", mistakes)

    def to_json(self, *, with_changes: bool = True) -> dict[str, Any]:
        """Plain data for JSON; durations, schedules and warmups as their texts.

        Args:
            with_changes: False leaves out how the recipe was derived, for digests: it does not change the training.
        """
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values |= {name: str(values[name]) for name in ("duration", "schedule", "warmup")}
        values["augment"] = list(self.augment)
        values["then"] = self.then and self.then.to_json(with_changes=with_changes)
        values["changes"] = [dataclasses.asdict(change) for change in self.changes]
        if self.batch == "fixed":  # runs made before there was a choice keep their identity
            del values["batch"]
        return values if with_changes else {name: value for name, value in values.items() if name != "changes"}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Recipe":
        """The recipe `to_json` wrote; fields left out take their defaults.

        Raises:
            ValueError: for unknown or missing fields, or with every mistake of the recipe.
        """
        _refuse_unknown("recipe", data, cls)
        values = dict(data)
        missing = [f"{name}: expected a value, got none; add it" for name in _REQUIRED if name not in values]
        if missing:
            raise RecipeError("recipe", missing)
        if values.get("then") is not None:
            values["then"] = Phase.from_json(values["then"])
        values["changes"] = _read_changes(values.get("changes", ()))
        return cls(**values)


@dataclass(frozen=True)
class Phase:
    """What follows a recipe. Its durations count from the switch.

    Args:
        recipe: how to train from there.
        carry: "weights" starts a new optimiser on the weights (Keskar et al. 2017, warm start: their code rebuilds it),
            "all" keeps the optimiser's state (growing the batch).

    Raises:
        ValueError: with every mistake.
    """

    recipe: Recipe
    carry: Literal["weights", "all"] = "weights"

    def __post_init__(self) -> None:
        settle(self, "phase", {"recipe": instance_of(Recipe), "carry": one_of(("weights", "all"))})

    def to_json(self, *, with_changes: bool = True) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"recipe": self.recipe.to_json(with_changes=with_changes), "carry": self.carry}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Phase":
        """The phase `to_json` wrote.

        Raises:
            ValueError: for unknown or missing fields, or with every mistake of its recipe.
        """
        _refuse_unknown("then", data, cls)
        if "recipe" not in data:
            raise RecipeError("then", ["recipe: expected the recipe of the phase, got none; add it"])
        return cls(Recipe.from_json(data["recipe"]), data.get("carry", "weights"))


_REQUIRED = ("global_batch_size", "lr")
_READERS = {
    **RECIPE_READERS,
    "then": optional(instance_of(Phase)),
    "changes": tuple_of(instance_of(Change), "a tuple of changes"),
}


def _read_changes(data: Any) -> tuple[Change, ...]:
    try:
        return tuple(Change(**change) for change in data)
    except TypeError as error:
        names = ", ".join(item.name for item in fields(Change))
        raise RecipeError("recipe", [f"changes: expected a list of {names}, got {data!r}; leave it out"]) from error


def _refuse_unknown(subject: str, values: object, kind: "type[Recipe | Phase] | Recipe") -> None:
    """Every name that is no field; a dataclass of our own would stop at the first, without a suggestion."""
    if not isinstance(values, Mapping):
        raise RecipeError(subject, [f"expected fields with values, got {values!r}; write an object"])
    names = [item.name for item in fields(kind)]
    unknown = [str(name) for name in cast(Mapping[object, object], values) if name not in names]
    if unknown:
        raise RecipeError(subject, [f"{name}: no such field{did_you_mean(name, names)}" for name in unknown])
