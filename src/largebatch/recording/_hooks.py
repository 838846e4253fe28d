"""A hook that stays behind when its module is copied or saved, as training loops do with averages and checkpoints."""

from collections.abc import Callable
from typing import Any, final

from torch._compile import _disable_dynamo

__all__ = ["Hook"]


@final
class Hook:
    """Calls `call`; a copy of it, by pickle or by copy, does nothing."""

    def __init__(self, call: Callable[..., Any]):
        self._call = call

    @_disable_dynamo  # a compiled model is compiled around it
    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, (_nothing,)


def _nothing(*args: Any) -> None:
    """What is left of a hook in a copy."""
