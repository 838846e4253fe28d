"""What moves when the global batch moves from B to k·B, by which rule, and who says so.

Rate: SGD η → k·η (Goyal et al. 2017, arXiv 1706.02677, section 2.1); Adam and AdamW η → √k·η, ε → ε/√k (Malladi et al.
2022, arXiv 2205.10287, square-root rule); LAMB √k (You et al. 2020, arXiv 1904.00962). LARS: nobody agrees (the
published MLPerf tunings have a log-log slope of 0.30), so the user declares a rule.
Second moment: β₂ → β₂^k keeps its half-life in samples, β₁ stays (Marek et al. 2025, arXiv 2507.07101).
Decoupled decay: the timescale 1/(ηλ) updates stays the same number of epochs (Wang and Aitchison 2025, arXiv
2405.13698), so λ → λ·k/(factor of η).
Warmup: gradual, from the small-batch rate, over 5 epochs (Goyal, section 2.2); capped at 0.2 of the duration, our own
choice for short runs. Lengths: the same epochs, or the same updates (Hoffer et al. 2017, arXiv 1705.08741).

Letters: η is `lr`, ε `eps`, β `beta1` and `beta2`, λ `weight_decay`, k the new batch ÷ the old.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from largebatch.recipe._duration import Duration
from largebatch.recipe._fields import one_of
from largebatch.recipe._limits import BATCH, SCALING_RULES
from largebatch.recipe._mistakes import RecipeError, located
from largebatch.recipe._schedule import Schedule, Warmup, warmup_reader

if TYPE_CHECKING:
    from largebatch.recipe._recipe import Phase, Recipe

__all__ = ["Budget", "Change", "Move", "moves", "nested", "own", "record", "restated"]

Budget = Literal["epochs", "updates"]

_GOYAL = "Goyal et al. 2017, section 2.1"
_GOYAL_WARMUP = "Goyal et al. 2017, section 2.2"
_HOFFER = "Hoffer et al. 2017"
_MALLADI = "Malladi et al. 2022"
_OWN_UNITS = "a step is k times as many samples"

_AUTO = {
    "sgd": ("linear", _GOYAL),
    "adam": ("sqrt", _MALLADI),
    "adamw": ("sqrt", _MALLADI),
    "lamb": ("sqrt", "You et al. 2020"),
}
_NESTED = "then.recipe."
_EXPONENT = {"linear": 1.0, "sqrt": 0.5}
_SIGN = {"linear": "k", "sqrt": "√k"}


@dataclass(frozen=True)
class Change:
    """One field that moved with the batch. Values that are not numbers stand as their text."""

    field: str
    before: int | float | str | None
    after: int | float | str | None
    rule: str
    source: str

    def __str__(self) -> str:
        before, after = (f"{v:.6g}" if isinstance(v, float) else str(v) for v in (self.before, self.after))
        return f"{self.field}: {before} → {after} ({self.rule}; {self.source})"


@dataclass(frozen=True)
class Move:
    """The value a field takes at the new batch, whether or not it differs from the old one."""

    field: str
    after: Any
    rule: str
    source: str


def moves(
    recipe: "Recipe", batch: int, *, budget: Budget, rule: str | None, warmup: Warmup | str | None
) -> Iterator[Move]:
    """Every field that a change of the global batch concerns, the phases after this one left aside.

    Raises:
        ValueError: with every mistake in the arguments, and for LARS without a declared rule.
    """
    rule = recipe.rule if rule is None else rule
    _refuse_bad_request(recipe, batch, budget, rule)
    k = batch / recipe.global_batch_size
    yield Move("global_batch_size", batch, "as asked", "the user")
    numbers = [] if rule == "none" or k == 1 else list(_number_moves(recipe, k, rule))
    yield from numbers
    yield from _length_moves(recipe, k, budget)
    lr = numbers[0].after if numbers else recipe.lr
    yield _warmup_move(recipe, k, lr, budget, "keep" if rule == "none" and warmup == "auto" else warmup)
    if recipe.ghost_batch_size is not None:
        # One sample has no batch statistics: a batch of 1 leaves nothing to split.
        fits = min(recipe.ghost_batch_size, batch) if batch > 1 else None
        yield Move("ghost_batch_size", fits, "at most the batch", "a ghost is a part of the global batch")


def record(changes: Sequence[Change], recipe: "Recipe", moved: Sequence[Move]) -> tuple[dict[str, Any], list[Change]]:
    """The new values of the fields that move, and the changes since the batch the recipe was tuned at.

    A field that comes back to where it started, up to rounding, takes exactly its old value and leaves the list.
    """
    log = {change.field: change for change in changes}
    values: dict[str, Any] = {}
    for move in moved:
        if move.after == getattr(recipe, move.field):
            continue
        tuned = log[move.field].before if move.field in log else _plain(getattr(recipe, move.field))
        after = _plain(move.after)
        if _same(tuned, after):
            values[move.field] = tuned
            log.pop(move.field, None)
        else:
            values[move.field] = move.after
            log[move.field] = Change(move.field, tuned, after, move.rule, move.source)
    return values, list(log.values())


def own(changes: Sequence[Change]) -> list[Change]:
    """The changes of this phase, without those of the phases after it."""
    return [change for change in changes if not change.field.startswith(_NESTED)]


def nested(following: "Phase | None") -> list[Change]:
    """The changes of the phases after this one, by their path from here."""
    changes = following.recipe.changes if following else ()
    return [replace(change, field=_NESTED + change.field) for change in changes]


def restated(changes: Sequence[Change], recipe: "Recipe") -> list[Change]:
    """The changes with the values the recipe has now: what differs was set by hand."""
    now = [_plain(getattr(recipe, change.field)) for change in changes]
    return [
        change if after == change.after else replace(change, after=after, rule="set by hand", source="the user")
        for change, after in zip(changes, now, strict=True)
    ]


def _refuse_bad_request(recipe: "Recipe", batch: int, budget: str, rule: str) -> None:
    mistakes: list[str] = []
    for name, value, read in (
        ("batch", batch, BATCH),
        ("budget", budget, one_of(("epochs", "updates"))),
        ("rule", rule, one_of(SCALING_RULES)),
    ):
        try:
            read(value)
        except ValueError as error:
            mistakes += located(name, error)
    if rule == "auto" and recipe.optimizer not in _AUTO and batch != recipe.global_batch_size:
        mistakes.append(
            f"rule: expected a declared one for {recipe.optimizer!r}, got 'auto'; published tunings of it follow no "
            "rule (their log-log slope is 0.30), give rule='linear', 'sqrt' or 'none'"
        )
    if mistakes:
        raise RecipeError("recipe.at", mistakes)


def _number_moves(recipe: "Recipe", k: float, rule: str) -> Iterator[Move]:
    """The rate first, then what an adaptive optimiser moves with it."""
    name, source = _AUTO[recipe.optimizer] if rule == "auto" else (rule, f"declared: rule={rule!r}")
    factor = k ** _EXPONENT[name]
    yield Move("lr", recipe.lr * factor, f"lr × {_SIGN[name]}", source)
    if recipe.optimizer in ("adam", "adamw"):
        yield Move("beta2", recipe.beta2**k, "beta2^k, its half-life in samples held", "Marek et al. 2025")
        yield Move("eps", recipe.eps / math.sqrt(k), "eps ÷ √k", _MALLADI)
    if recipe.optimizer == "adamw":
        held = "weight_decay × k ÷ (factor of lr), decay per epoch held"
        yield Move("weight_decay", recipe.weight_decay * k / factor, held, "Wang and Aitchison 2025")


def _length_moves(recipe: "Recipe", k: float, budget: Budget) -> Iterator[Move]:
    """The duration and the milestones."""
    schedule: Schedule = recipe.schedule
    if schedule.milestones:
        schedule = replace(schedule, milestones=tuple(_stretched(m, k, budget) for m in schedule.milestones))
    rule, source = ("÷ k in steps", _OWN_UNITS) if budget == "epochs" else ("× k in epochs and samples", _HOFFER)
    yield Move("duration", _stretched(recipe.duration, k, budget), rule, source)
    yield Move("schedule", schedule, f"milestones {rule}", source)


def _stretched(length: Duration, k: float, budget: Budget) -> Duration:
    """The same samples under a budget of epochs, the same updates under a budget of updates."""
    if budget == "epochs":
        return length.times(1 / k) if length.unit == "steps" else length
    return length.times(k) if length.unit in ("ep", "samples") else length


def _warmup_move(recipe: "Recipe", k: float, lr: float, budget: Budget, asked: Warmup | str | None) -> Move:
    own = recipe.warmup
    if asked not in ("auto", "keep"):
        return Move("warmup", warmup_reader(asked), "as asked", "the user")
    if own.kind == "none":
        if asked == "keep" or k <= 1:
            return Move("warmup", own, "none", _GOYAL_WARMUP)
        gradual = Warmup("gradual", "5ep", start_lr=recipe.lr, at_most="0.2dur")
        return Move("warmup", gradual, "gradual, from the small-batch rate", _GOYAL_WARMUP)
    if own.start_lr >= lr or _same(own.start_lr, lr):
        return Move("warmup", Warmup(), "dropped, the rate no longer rises", _GOYAL_WARMUP)
    kept = replace(own, duration=_held(own.duration, k, budget), at_most=_held_cap(own.at_most, k))
    return Move("warmup", kept, "the same samples", _OWN_UNITS)


def _held(length: Duration, k: float, budget: Budget) -> Duration:
    """The same samples, whatever happens to the phase around it."""
    stretches = length.unit == "dur" and budget == "updates"
    return length.times(1 / k) if length.unit == "steps" or stretches else length


def _held_cap(cap: Duration, k: float) -> Duration:
    """A cap in shares of the phase stays that share; one in steps stays the same samples."""
    return _held(cap, k, "epochs")


def _plain(value: Any) -> int | float | str | None:
    return value if value is None or isinstance(value, int | float) else str(value)


def _same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9)
    return a == b
