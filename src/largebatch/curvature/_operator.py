"""Operator: a symmetric matrix that is known by its products alone. Solvers ask for `shape` and `@`, and no more.

So a Hessian of ours, a dense tensor, and the operators of curvlinops and hessian-eigenthings are all solved alike.
"""

from collections.abc import Callable
from typing import Any, Protocol, cast, final

import torch
from torch import Tensor

__all__ = ["CallableOperator", "Operator", "as_operator"]


class Operator(Protocol):
    """A symmetric (n, n) matrix."""

    @property
    def shape(self) -> tuple[int, int]:
        """`(n, n)`."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors it takes and gives."""
        ...

    @property
    def device(self) -> torch.device:
        """Where they are."""
        ...

    def __matmul__(self, vector: Tensor) -> Tensor:
        """The product with a vector (n,), a new tensor (n,)."""
        ...


@final
class CallableOperator:
    """A function as an operator.

    Args:
        n: the dimension.
        matvec: maps a vector (n,) to the product (n,); it must be linear and symmetric, which nobody checks.
        dtype, device: of the vectors.
    """

    def __init__(
        self,
        n: int,
        matvec: Callable[[Tensor], Tensor],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        self.shape = (n, n)
        self.dtype = dtype
        self.device = torch.device(device)
        self._matvec = matvec

    def __matmul__(self, vector: Tensor) -> Tensor:
        return self._matvec(vector)


def as_operator(thing: Any) -> Operator:
    """Whatever has `shape` and `@`, or `size` and `matvec`, as an operator.

    Args:
        thing: where it names no dtype and device, those of torch's defaults are taken.

    Raises:
        TypeError: it has neither.
        ValueError: it is not square.
    """
    matvec = getattr(thing, "matvec", None)
    shape = getattr(thing, "shape", None)
    if shape is None and callable(matvec) and isinstance(getattr(thing, "size", None), int):
        shape = (thing.size, thing.size)
        multiply = cast(Callable[[Tensor], Tensor], matvec)
    elif shape is not None and hasattr(type(thing), "__matmul__"):
        multiply = thing.__matmul__
    else:
        raise TypeError(
            f"operator: expected something with `shape` and `@`, got {type(thing).__name__}: "
            "wrap a function as curvature.CallableOperator(n, matvec)"
        )
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            f"operator: expected a square symmetric matrix, got shape {tuple(shape)}: "
            "an eigenvalue needs a map of a space into itself; use A'A for singular values"
        )
    if isinstance(getattr(thing, "dtype", None), torch.dtype) and isinstance(thing.device, torch.device):
        if getattr(thing, "shape", None) is not None:
            return cast(Operator, thing)
        return CallableOperator(shape[0], multiply, thing.dtype, thing.device)
    return CallableOperator(shape[0], multiply, torch.get_default_dtype())
