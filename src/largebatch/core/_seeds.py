"""Independent random numbers from (seed, purpose, ...): the same whatever the world size, the micro-batch or a resume.

Nothing in the package draws from the global generators. A stream is named by what it is for, so adding a consumer
never shifts another's numbers. `derive` hashes the name; `uniform_per_sample` is counter based (splitmix64: Steele, Lea
and Flood, OOPSLA 2014), so that the number of one sample does not depend on which samples share its batch.
"""

import hashlib

import torch
from torch import Tensor

__all__ = ["derive", "generator", "seed_default", "uniform_per_sample"]


def derive(seed: int, purpose: str, *keys: int) -> int:
    """A 63-bit seed for one purpose; equal arguments give equal seeds on every machine."""
    text = ":".join([str(seed), purpose, *map(str, keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *keys: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator of its own for one purpose."""
    return torch.Generator(device=device).manual_seed(derive(seed, purpose, *keys))


def seed_default(device: torch.device, seed: int) -> None:
    """Seed the generator that layers on `device` draw from. torch.manual_seed would seed every backend, at 1 ms a call."""
    if device.type == "cuda":
        torch.cuda.default_generators[torch.device(device).index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def uniform_per_sample(seed: int, purpose: str, epoch: int, indices: Tensor, draws: int) -> Tensor:
    """`draws` numbers in [0, 1) for each sample, keyed by (seed, purpose, epoch, sample).

    Args:
        indices: (n,) int64, positions in the data set.

    Returns:
        (n, draws) float64 on the device of `indices`.
    """
    key = derive(seed, purpose, epoch)
    counter = indices[:, None] * draws + torch.arange(draws, device=indices.device)  # (n, draws)
    bits = _splitmix64(counter + key)
    return _shift_right(bits, 11).to(torch.float64) * 2.0**-53


def _splitmix64(x: Tensor) -> Tensor:
    """The splitmix64 finaliser on int64 tensors, whose arithmetic wraps modulo 2^64."""
    z = x * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift_right(z, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's shift of a negative int64 would copy the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant
