"""Replace an attribute of a class or module for a while, and put it back."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["replaced"]


@contextmanager
def replaced(owner: Any, name: str, instead: Callable[..., Any]) -> Iterator[None]:
    """Inside, `owner.name(*args)` calls `instead(original, *args)`; the original is put back whatever happens.

    Args:
        owner: a class or a module that has `name` itself.
        instead: gets the original as its first argument.
    """
    own = vars(owner)
    original = own[name] if name in own else getattr(owner, name)

    @functools.wraps(original)
    def patched(*args: Any, **kwargs: Any) -> Any:
        return instead(original, *args, **kwargs)

    inherited = name not in own
    setattr(owner, name, patched)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, original)
