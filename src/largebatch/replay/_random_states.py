"""The random generators that augmentation and dropout draw from: the process's own, and those that a module holds."""

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import nn

__all__ = [
    "RandomStates",
    "drawn_from",
    "kept_random_state",
    "random_state_digests",
    "random_states",
    "set_random_states",
]

RandomStates = list[tuple[Callable[[Any], Any], Any]]
"""What sets each generator, and its state."""


def random_states(module: nn.Module | None = None) -> RandomStates:
    """The present states of torch's generators, on the CPU and on all GPUs, of Python's and numpy's, and of a module's."""
    states: RandomStates = [
        (torch.set_rng_state, torch.get_rng_state()),
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),  # noqa: NPY002
    ]
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # a look would be the first use
        states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    held = [value for part in module.modules() for value in vars(part).values()] if module is not None else []
    states += [(g.set_state, g.get_state()) for g in held if isinstance(g, torch.Generator)]
    return states + [(g.setstate, g.getstate()) for g in held if isinstance(g, random.Random)]


def set_random_states(states: RandomStates) -> None:
    """Go back to these states."""
    for set_state, state in states:
        set_state(state)


@contextmanager
def kept_random_state(module: nn.Module | None = None) -> Iterator[None]:
    """Inside, random numbers may be drawn; afterwards nothing was."""
    states = random_states(module)
    try:
        yield
    finally:
        set_random_states(states)


def random_state_digests() -> tuple[str, str, str]:
    """Of the generators that augmentation draws from: torch's, Python's, numpy's."""
    state = cast(tuple[Any, ...], np.random.get_state())  # noqa: NPY002
    contents = (
        torch.get_rng_state().numpy().tobytes(),
        repr(random.getstate()).encode(),
        state[1].tobytes() + str(state[2]).encode(),
    )
    torchs, pythons, numpys = (hashlib.blake2b(content, digest_size=8).hexdigest() for content in contents)
    return torchs, pythons, numpys


def drawn_from(before: tuple[str, ...]) -> tuple[str, ...]:
    """Digests before, of the generators that have moved since."""
    return tuple(old for old, new in zip(before, random_state_digests(), strict=True) if old != new)
