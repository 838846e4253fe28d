"""What a module writes down beside parameters and buffers: its mode, counters, lists of outputs, the sums of torchmetrics.

A replay runs the user's code once more. It must see what the pass saw, and must not be a second batch of the user's metrics.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

__all__ = ["Notes", "notes_of", "with_notes"]

HELD_APART = frozenset(vars(nn.Module())) - {"training"}  # parameters, buffers, parts, hooks
COPIED_BYTES = 1 << 20  # sums are small; a data set that a module holds is not copied

Notes = list[tuple[nn.Module, dict[str, Any]]]
"""Every part of a module and its attributes."""


def notes_of(module: nn.Module) -> Notes:
    """Copies of what all parts of a module have noted."""
    return [
        (part, {name: _copied(value) for name, value in vars(part).items() if name not in HELD_APART})
        for part in module.modules()
    ]


@contextmanager
def with_notes(notes: Notes) -> Iterator[None]:
    """Inside, parts have copies of these attributes; afterwards they have their present ones again, untouched."""
    present = [(part, dict(vars(part))) for part, _ in notes]
    try:
        for part, attributes in notes:
            vars(part).update({name: _copied(value) for name, value in attributes.items()})
        yield
    finally:
        for part, attributes in present:
            for name in vars(part).keys() - attributes.keys():
                del vars(part)[name]
            vars(part).update(attributes)


def _copied(value: Any) -> Any:
    """Tensors and the builtin containers; what else there is stays the same object."""
    if isinstance(value, Tensor):
        return value if value.requires_grad or value.nbytes > COPIED_BYTES else value.clone()
    if type(value) in (list, set):
        return type(value)(_copied(item) for item in cast(list[Any], value))
    if type(value) is dict:
        return {key: _copied(item) for key, item in cast(dict[Any, Any], value).items()}
    return value
