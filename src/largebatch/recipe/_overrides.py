"""A recipe with fields set from texts, as `--set recipe.warmup.start_lr=0` gives them."""

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from largebatch.recipe._calls import plain
from largebatch.recipe._mistakes import RecipeError, did_you_mean, located
from largebatch.recipe._schedule import schedule_reader, warmup_reader

if TYPE_CHECKING:
    from largebatch.recipe._recipe import Recipe

__all__ = ["override"]

_Assignment = tuple[Sequence[str], str]  # (path from the object, text of the value)

# A text is the value itself here, where elsewhere "none" is None and "0.1" a number.
_TEXTS = ("optimizer", "momentum_convention", "precision", "rule", "kind", "carry", "duration", "at_most")
_LISTS = ("augment", "milestones")
_PARSED = {"schedule": schedule_reader, "warmup": warmup_reader}
_NOT_SETTABLE = ("changes",)


def override(recipe: "Recipe", assignments: Iterable[str]) -> "Recipe":
    """The recipe with every assignment "path=value" applied, all at once: their order does not matter.

    Raises:
        ValueError: with every mistake.
    """
    mistakes: list[str] = []
    paths: list[_Assignment] = []
    for text in assignments:
        path, equals, value = (part.strip() for part in text.partition("="))
        if equals and value and path:
            paths.append((path.removeprefix("recipe.").split("."), value))
        else:
            mistakes.append(f"{text!r}: expected name=value, got no {'value' if equals else '='}; write lr=0.1")
    changed = _apply(recipe, paths, "", mistakes)
    if mistakes:
        raise RecipeError("--set", mistakes)
    return changed


def _apply(target: Any, assignments: Sequence[_Assignment], place: str, mistakes: list[str]) -> Any:
    """A copy of a recipe, phase, schedule or warmup; what is wrong is added to `mistakes`, with its place."""
    names = [item.name for item in fields(target) if item.name not in _NOT_SETTABLE]
    values: dict[str, Any] = {}
    inner: dict[str, list[_Assignment]] = {}
    for (name, *rest), text in assignments:
        if name not in names:
            mistakes.append(f"{place}{name}: no such field{did_you_mean(name, names)}")
        elif rest:
            inner.setdefault(name, []).append((rest, text))
        else:
            _collect(values, name, text, place, mistakes)
    for name, deeper in inner.items():
        part = values.get(name, getattr(target, name))
        if is_dataclass(part):
            values[name] = _apply(part, deeper, f"{place}{name}.", mistakes)
        else:
            parts = ", ".join(".".join(path) for path, _ in deeper)
            mistakes.append(
                f"{place}{name}: expected a value with {parts}, got {part!r}; set {place}{name} itself first"
            )
    return _replaced(target, values, place, mistakes)


def _collect(values: dict[str, Any], name: str, text: str, place: str, mistakes: list[str]) -> None:
    try:
        values[name] = _value(name, text)
    except ValueError as error:
        mistakes += located(place + name, error)


def _value(name: str, text: str) -> Any:
    """What a text means for a field."""
    if name in _PARSED:
        return _PARSED[name](text)
    if name in _LISTS:
        return () if text == "none" else tuple(item.strip() for item in text.split(","))
    return text if name in _TEXTS else plain(text)


def _replaced(target: Any, values: dict[str, Any], place: str, mistakes: list[str]) -> Any:
    try:
        return target.replace(**values) if hasattr(target, "changes") else replace(target, **values)
    except RecipeError as error:
        mistakes += [place + mistake for mistake in error.mistakes]
        return target
