"""What a loader's sampler is meant to do: go once through all the data, or through a part of it, or neither."""

from typing import Any

from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

__all__ = ["described_sampler", "size_of"]

KNOWN = ("torch", "accelerate", "lightning", "pytorch_lightning", "transformers")
"""Packages whose samplers go once through their data."""


def size_of(loader: "DataLoader[Any] | None") -> int:
    """Samples; 0 where the data set cannot tell."""
    try:
        return len(loader.dataset) if loader is not None else 0  # pyright: ignore[reportArgumentType]
    except TypeError:
        return 0


def described_sampler(loader: "DataLoader[Any] | None") -> dict[str, Any]:
    """The fields of Evidence that tell of a sampler."""
    sampler: Any = getattr(loader, "sampler", None)
    is_drawing = isinstance(sampler, RandomSampler | WeightedRandomSampler)
    return {
        "with_replacement": bool(getattr(sampler, "replacement", False))
        or (is_drawing and sampler.num_samples != size_of(loader)),
        "population": [int(i) for i in sampler.indices] if isinstance(sampler, SubsetRandomSampler) else [],
        "has_own_sampler": sampler is not None and type(sampler).__module__.partition(".")[0] not in KNOWN,
    }  # fmt: skip
