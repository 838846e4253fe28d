"""Ghost batch norm written plainly: chunk by chunk, mean and variance from their definitions."""

import itertools

import torch
from torch import Tensor


def chunks_of(samples: int, ghost: int | None) -> list[slice]:
    """⌊samples/n⌋ chunks and a shorter one; a remainder of one sample belongs to the chunk before it."""
    if ghost is None or samples <= ghost:
        return [slice(0, samples)]
    edges = [*list(range(0, samples, ghost)), samples]
    if edges[-1] - edges[-2] == 1:
        del edges[-2]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def normalise(x: Tensor, weight: Tensor, bias: Tensor, ghost: int | None, eps: float) -> Tensor:
    """x: (samples, channels, …)."""
    shape = [1, x.shape[1]] + [1] * (x.dim() - 2)
    out = torch.empty_like(x)
    for chunk in chunks_of(len(x), ghost):
        part = x[chunk].transpose(0, 1).reshape(x.shape[1], -1)
        mean = part.mean(1)
        var = ((part - mean[:, None]) ** 2).mean(1)
        out[chunk] = (x[chunk] - mean.view(shape)) / torch.sqrt(var.view(shape) + eps) * weight.view(shape) + bias.view(
            shape
        )
    return out


def running(x: Tensor, mean0: Tensor, var0: Tensor, ghost: int | None, momentum: float) -> tuple[Tensor, Tensor]:
    """Running statistics after one update on the whole of x."""
    mean = torch.zeros_like(mean0)
    var = torch.zeros_like(var0)
    for chunk in chunks_of(len(x), ghost):
        part = x[chunk].transpose(0, 1).reshape(x.shape[1], -1)
        n = chunk.stop - chunk.start
        mean += part.mean(1) * n / len(x)
        var += part.var(1, unbiased=True) * n / len(x)
    return (1 - momentum) * mean0 + momentum * mean, (1 - momentum) * var0 + momentum * var
