"""RandomColumns: the random matrix A (P, p) of Keskar's subspaces, and its pseudo-inverse by the normal equations.

Keskar et al. 2017 (arXiv 1609.04836, section 2.2.2) draw p = 100 columns and do not say how, nor whether they are
normalised: here they are Gaussian. A⁺x = (A'A)⁻¹A'x needs a p × p solve, not a pseudo-inverse of P × p.
"""

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from largebatch.core import generator

__all__ = ["RandomColumns"]

HELD_BYTES = (
    2 << 30
)  # up to here A is drawn once and held (1.5 million weights x 100 in float32: 0.6 GB); else block by block
BLOCK_ROWS = 1 << 16


@final
class RandomColumns:
    """A (P, p) with independent Gaussian entries.

    Args:
        point: x, (P,), for dtype and device. The entries are drawn in float32, so they are the same in every dtype.
        columns: p, at most P.
        normalised: columns of unit length; else entries of unit variance.
        held_bytes: a larger matrix is drawn anew, in blocks of rows, each time it is applied.

    Raises:
        ValueError: more columns than parameters.
    """

    def __init__(self, point: Tensor, columns: int, *, normalised: bool, seed: int, held_bytes: int = HELD_BYTES):
        rows = len(point)
        if columns > rows:
            raise ValueError(
                f"subspace: expected at most as many dimensions as parameters, {rows}, got {columns}; "
                f"set subspace={rows} or less, or measure the full space"
            )
        self._point = point
        self._columns = columns
        self._seed = seed
        self._held: list[Tensor] | None = None
        if rows * columns * point.element_size() <= held_bytes:
            self._held = list(self._draw())
        gram = torch.zeros(columns, columns, dtype=torch.float64, device=point.device)
        for block in self._blocks():
            gram += (block.T @ block).double()
        lengths = gram.diagonal().sqrt()
        self._scale = 1 / lengths if normalised else torch.ones_like(lengths)
        self._gram = self._scale[:, None] * gram * self._scale

    def expand(self, z: Tensor) -> Tensor:
        """A z, (P,), of z (p,)."""
        scaled = self._scale.to(z) * z
        return torch.cat([block @ scaled for block in self._blocks()])

    def pull(self, gradient: Tensor) -> Tensor:
        """A'g, (p,), of g (P,)."""
        parts = torch.split(gradient, BLOCK_ROWS)
        product = torch.stack([block.T @ part for block, part in zip(self._blocks(), parts, strict=True)]).sum(0)
        return self._scale.to(product) * product

    def coordinates(self, point: Tensor) -> Tensor:
        """A⁺x, (p,), of x (P,)."""
        return torch.linalg.solve(self._gram, self.pull(point).double()).to(point)

    def _blocks(self) -> Iterator[Tensor]:
        return self._draw() if self._held is None else iter(self._held)

    def _draw(self) -> Iterator[Tensor]:
        for index, part in enumerate(torch.split(self._point, BLOCK_ROWS)):
            source = generator(self._seed, "columns", index)
            yield torch.randn(len(part), self._columns, generator=source, dtype=torch.float32).to(part)
