"""Texts of the form `kind(first,name=value)`, in which schedules and warmups are written: "step(30ep,60ep,factor=0.2)".

A table says which fields mean something for which kind; it reads, writes, and refuses what would be ignored in silence.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

from largebatch.recipe._mistakes import did_you_mean

__all__ = ["Form", "number_text", "plain", "read_call", "refuse_unused", "write_call"]


@dataclass(frozen=True)
class Form:
    """What one kind takes: `first` is written without its name (several values if `many`), the others with it."""

    first: str = ""
    named: tuple[str, ...] = ()
    many: bool = False

    @property
    def takes(self) -> tuple[str, ...]:
        return (self.first, *self.named) if self.first else self.named

    def __str__(self) -> str:
        shown = [self.first] if self.first else []
        return ", ".join(shown + [f"{name}=" for name in self.named]) or "nothing"


def read_call(text: str, examples: str, forms: Mapping[str, Form]) -> dict[str, Any]:
    """The fields a text gives, `kind` among them; numbers as numbers, all else as text.

    Raises:
        ValueError: for an unknown kind, or a parameter it does not take.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text)
    if match is None or match[1] not in forms:
        near = did_you_mean(match[1] if match else text, forms)
        raise ValueError(f"expected {examples}, got {text!r}{near or '; write one of these'}")
    form = forms[match[1]]
    items = [item.strip() for item in (match[2] or "").split(",") if item.strip()]
    first = [item for item in items if "=" not in item]
    named = dict(re.split(r"\s*=\s*", item, maxsplit=1) for item in items if "=" in item)
    unnamed_allowed = 0 if not form.first else len(items) if form.many else 1
    if named.keys() - set(form.named) or len(first) > unnamed_allowed or len(first) + len(named) < len(items):
        raise ValueError(f"expected {match[1]} with {form}, got {text!r}; give only these, each once")
    given: dict[str, Any] = {name: plain(value) for name, value in named.items()}
    if first:
        given[form.first] = tuple(first) if form.many else plain(first[0])
    return {"kind": match[1], **given}


def write_call(instance: Any, forms: Mapping[str, Form]) -> str:
    """The inverse of `read_call`; a named field is written where it differs from its default."""
    form = forms[instance.kind]
    first = getattr(instance, form.first) if form.first else ()
    items = [_text(value) for value in (cast(tuple[object, ...], first) if isinstance(first, tuple) else (first,))]
    values = {name: getattr(instance, name) for name in form.named}
    items += [f"{name}={_text(value)}" for name, value in values.items() if value != _defaults(instance)[name]]
    return f"{instance.kind}({','.join(items)})" if items else instance.kind


def refuse_unused(instance: Any, forms: Mapping[str, Form]) -> str | None:
    """The mistake of giving a field that means nothing for this kind, if one was made."""
    takes = {"kind", *forms[instance.kind].takes}
    given = [name for name, default in _defaults(instance).items() if getattr(instance, name) != default]
    unused = [name for name in given if name not in takes]
    if not unused:
        return None
    values = ", ".join(_text(getattr(instance, name)) for name in unused)
    fits = [kind for kind, form in forms.items() if set(unused) <= set(form.takes)]
    return (
        f"{', '.join(unused)}: expected nothing, because {instance.kind!r} does not use it, got {values}; "
        f"leave it out, or choose a kind that does ({', '.join(fits)})"
    )


def plain(text: str) -> bool | int | float | str | None:
    """The value a text stands for: none, true, false, a number, or else the text itself."""
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def number_text(value: float) -> str:
    """The shortest text that reads back as exactly this number; whole numbers without a point."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_text, cast(tuple[object, ...], value)))
    return number_text(value) if isinstance(value, float) else str(value)


def _defaults(instance: Any) -> dict[str, Any]:
    return {field.name: field.default for field in fields(instance)}
