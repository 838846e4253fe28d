"""Parameters as one vector: distances and norms over lists of tensors, without a copy where torch allows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["displaced", "distance_", "flatten", "squared_norm", "unflatten"]


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """One (P,) vector of all entries, in order."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of `vector` (P,) with the shapes of `like`."""
    parts = torch.split(vector, [tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


def squared_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of squares over all tensors, 0-D, on their device: no host synchronisation."""
    norms = torch._foreach_norm(list(tensors))
    return torch.stack(norms).square().sum()


def distance_(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Euclidean ‖a − b‖ over all tensors, 0-D. `a` is overwritten by the difference.

    In place: fresh memory for differences costs several times the arithmetic, page by page, at each call.
    """
    differences = list(a)
    torch._foreach_sub_(differences, list(b))
    return torch.stack(torch._foreach_norm(differences)).norm()


@contextmanager
def displaced(parameters: Sequence[Tensor]) -> Iterator[Callable[[Tensor], None]]:
    """Inside, `move(e)` sets the parameters x to x + e, e of shape (P,); on leaving they are x again, to the bit."""
    weights = [p.detach() for p in parameters]  # the same memory, without a graph
    origin = [p.clone() for p in weights]

    def move(displacement: Tensor) -> None:
        for weight, x, e in zip(weights, origin, unflatten(displacement, weights), strict=True):
            torch.add(x, e, out=weight)

    try:
        yield move
    finally:
        torch._foreach_copy_(weights, origin)
