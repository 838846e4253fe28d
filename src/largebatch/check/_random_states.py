"""The process's random generators that augmentation and dropout draw from: torch's, Python's and numpy's."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

__all__ = ["drawn_from", "kept_random_state", "random_state_digests", "set_random_state"]


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


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Inside, random numbers may be drawn; afterwards nothing was."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        set_random_state(states)


def set_random_state(states: tuple[Tensor, Any, Any]) -> None:
    """Of torch's, Python's and numpy's global generators."""
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])  # noqa: NPY002
