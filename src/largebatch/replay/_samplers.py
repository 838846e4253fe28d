"""What a loader's sampler is meant to do: go once through all the data, or through a part of it, or neither."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

__all__ = ["described_sampler", "size_of"]

KNOWN = ("torch", "accelerate", "lightning", "pytorch_lightning", "transformers")
"""Packages whose samplers go once through their data."""
INNER = ("batch_sampler", "sampler")
"""Where samplers of batches keep the one they draw from. Lightning's for ranks has it inside its `dataset`."""


def size_of(loader: "DataLoader[Any] | None") -> int:
    """Samples; 0 where the data set cannot tell."""
    try:
        return len(loader.dataset) if loader is not None else 0  # pyright: ignore[reportArgumentType]
    except TypeError:
        return 0


def described_sampler(loader: "DataLoader[Any] | None") -> dict[str, Any]:
    """The fields of Evidence that tell of a sampler, and of those it draws from."""
    samplers = list(_chain(loader))
    return {
        "with_replacement": any(_repeats(sampler, size_of(loader)) for sampler in samplers),
        "population": [int(i) for s in samplers if isinstance(s, SubsetRandomSampler) for i in s.indices],
        "has_own_sampler": any(type(sampler).__module__.partition(".")[0] not in KNOWN for sampler in samplers),
    }


def _chain(loader: Any) -> Iterator[Any]:
    """The sampler of batches and what it draws from, outermost first."""
    outer = getattr(loader, "batch_sampler", None)
    sampler = getattr(loader, "sampler", None) if outer is None else outer
    while sampler is not None:
        yield sampler
        inner = next((held for name in INNER if (held := getattr(sampler, name, None)) is not None), None)
        sampler = inner if inner is not None else getattr(getattr(sampler, "dataset", None), "_sampler", None)


def _repeats(sampler: Any, size: int) -> bool:
    """Whether it repeats or leaves out samples on purpose."""
    is_drawing = isinstance(sampler, RandomSampler | WeightedRandomSampler)
    return bool(getattr(sampler, "replacement", False)) or (is_drawing and sampler.num_samples != size)
