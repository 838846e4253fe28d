"""A Krylov basis: orthonormal vectors that grow by one product at a time, and the operator's matrix T in them.

Lanczos' recurrence (Parlett 1980, *The Symmetric Eigenvalue Problem*, chapter 13): from q_1 an orthonormal basis Q (m, n) of
span{q, Hq, H²q, …} in which H is a tridiagonal T. For the Ritz vector y = Q's of a Ritz pair (θ, s) of T,

    ‖Hy − θy‖ = ρ = β·|s_m|

Every new vector is made orthogonal to all of Q, by one matrix product with Q and one with its transpose, so no
eigenvalue appears twice that is not there twice ("ghosts"). One sequence sees one vector of each eigenspace: of a multiple
eigenvalue it finds the copies only where the sequence ends early and a new one is started.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from largebatch.core import generator
from largebatch.curvature._operator import Operator

__all__ = ["Krylov", "Ritz", "length", "random_direction"]

ROUNDING = 100.0  # units in the last place of the largest entry: less is no direction of its own
MUCH_LEFT = 0.9  # of a vector's length: what was removed then left no rounding worth a second removal
PIECE = 1 << 14  # entries of one float32 product


@dataclass(frozen=True)
class Ritz:
    """What a basis of m vectors says about eigenvalues."""

    values: Tensor  # (m,) float64, ascending
    residuals: Tensor  # (m,), ρ
    coordinates: Tensor  # (m, m), of the Ritz vectors in the basis, in columns


@final
class Krylov:
    """An orthonormal basis that grows by one product at a time, and the operator's matrix T in it.

    Args:
        start: (n,), not zero.
        rows: the most vectors it may grow to.
        seed: of the vectors that continue a sequence which has ended.
    """

    def __init__(self, operator: Operator, start: Tensor, rows: int, seed: int = 0):
        self.operator = operator
        self.steps = 0
        self.matrix = torch.zeros(rows, rows, dtype=torch.float64)
        """T; its first `steps` rows and columns are known."""
        self.residual_norm = float("inf")
        """β, the norm of what the last product added to the basis."""
        self.segment = 0
        """Where the present sequence began: later than 0 if an invariant subspace was found."""
        self._seed = seed
        self._basis = torch.empty(min(rows, 16), len(start), dtype=operator.dtype, device=operator.device)
        self._next: Tensor | None = start / length(start)

    @property
    def basis(self) -> Tensor:
        """(steps, n), orthonormal rows."""
        return self._basis[: self.steps]

    def step(self) -> None:
        """One product."""
        j = self.steps
        self._append(self._next if self._next is not None else self._fresh())
        q = self._basis[j]
        w = self.operator @ q
        alpha = _dot(q, w)
        self.matrix[j, j] = alpha
        w = torch.add(w, q, alpha=-alpha)
        if j > self.segment:
            w.add_(self._basis[j - 1], alpha=-self.residual_norm)
        w, beta = self._orthogonal(w)
        scale = float(self.matrix[: j + 1, : j + 1].abs().max())
        if beta <= ROUNDING * torch.finfo(w.dtype).eps * scale or self.steps == len(w):
            self.residual_norm, self._next = 0.0, None
        else:
            self.residual_norm, self._next = beta, w.div_(beta)

    def ritz(self) -> Ritz:
        """The Ritz pairs of the present basis."""
        return _solve(self.matrix[: self.steps, : self.steps], self.residual_norm)

    def last_ritz(self) -> Ritz:
        """Those of the present sequence alone, where an earlier one has ended."""
        block = self.matrix[self.segment : self.steps, self.segment : self.steps]
        return _solve(block, self.residual_norm)

    def _append(self, vector: Tensor) -> None:
        if self.steps == len(self._basis):
            rows = min(2 * len(self._basis), len(self.matrix))
            self._basis = torch.cat([self._basis, self._basis.new_empty(rows - self.steps, len(vector))])
        self._basis[self.steps] = vector
        if self.steps > self.segment:
            self.matrix[self.steps, self.steps - 1] = self.matrix[self.steps - 1, self.steps] = self.residual_norm
        self.steps += 1

    def _orthogonal(self, w: Tensor) -> tuple[Tensor, float]:
        """Remove the basis from w, and once more where much was removed: twice is enough (Parlett, section 6.9)."""
        size = length(w)
        for _ in range(2):
            before = size
            w = torch.addmv(w, self.basis.T, self._coordinates(w), alpha=-1)
            size = length(w)
            if size > MUCH_LEFT * before:
                break
        return w, size

    def _coordinates(self, w: Tensor) -> Tensor:
        """Qw, (steps,). Piece by piece: a float32 product over 10⁶ entries at once is off by a part in 10⁴."""
        pieces = zip(self.basis.split(PIECE, dim=1), w.split(PIECE), strict=True)
        return torch.stack([rows @ part for rows, part in pieces]).sum(dim=0)

    def _fresh(self) -> Tensor:
        """The sequence ended in an invariant subspace: what is left has its own eigenvalues, perhaps the same ones."""
        self.segment = self.steps
        vector = random_direction(self.operator, self._seed, self.steps)
        vector, norm = self._orthogonal(vector)
        return vector / norm


def _dot(v: Tensor, w: Tensor) -> float:
    """v'w. Piece by piece, as `_coordinates`, and no residual would show the error of a float32 sum over all."""
    pieces = zip(v.split(PIECE), w.split(PIECE), strict=True)
    wide = v.dtype if v.device.type == "mps" else torch.float64  # which has no float64
    return float(torch.stack([a @ b for a, b in pieces]).sum(dtype=wide))


def length(v: Tensor) -> float:
    """‖v‖."""
    return _dot(v, v) ** 0.5


def _solve(matrix: Tensor, residual_norm: float) -> Ritz:
    values, coordinates = torch.linalg.eigh(matrix)
    return Ritz(values, residual_norm * coordinates[-1].abs(), coordinates)


def random_direction(operator: Operator, seed: int, *keys: int) -> Tensor:
    """A random unit vector (n,)."""
    source = generator(seed, "lanczos", *keys)
    vector = torch.randn(operator.shape[0], generator=source, dtype=operator.dtype).to(operator.device)
    return vector / length(vector)
