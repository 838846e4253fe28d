"""Targets of inputs that came through no loader: rows of tensors that are held in memory whole, known by their bytes."""

from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from largebatch.core import Data

__all__ = ["NO_ROWS", "Resident", "resident"]

NO_ROWS = (
    "expected inputs that came through a torch DataLoader, or rows of a tuple of tensors (or TensorDataset) given to "
    "check.reference; read the data through a DataLoader, or give check.reference the tensors themselves"
)


@final
class Resident:
    """A data set in memory.

    Args:
        inputs: (N, …).
        targets: each (N, …).
    """

    def __init__(self, inputs: Tensor, targets: tuple[Tensor, ...]):
        self._inputs, self._targets = inputs, targets
        self._known: dict[torch.dtype, dict[bytes, list[int]]] = {}

    def targets_of(self, inputs: Tensor) -> Any:
        """The targets of (n, …) rows; or why they cannot be told."""
        found = [self._rows(inputs.dtype).get(row, []) for row in _bytes(inputs)]
        if [] in found:
            return (
                f"{found.count([])} of {len(found)} inputs are no rows of the data given to check.reference: give it the "
                "tensors as the model sees them, or read them through a DataLoader"
            )
        unclear = sum(not self._agree(rows) for rows in found)
        if unclear:
            return (
                f"{unclear} of {len(found)} inputs are equal to several samples whose targets differ: read them through a "
                "DataLoader, which tells samples apart"
            )
        first = [rows[0] for rows in found]
        chosen = tuple(target[first] for target in self._targets)
        return chosen[0] if len(chosen) == 1 else chosen

    def _rows(self, dtype: torch.dtype) -> dict[bytes, list[int]]:
        """Positions by content, with the inputs cast as the loop may cast them."""
        if dtype not in self._known:
            known: dict[bytes, list[int]] = {}
            for position, row in enumerate(_bytes(self._inputs.to(dtype))):
                known.setdefault(row, []).append(position)
            self._known[dtype] = known
        return self._known[dtype]

    def _agree(self, rows: list[int]) -> bool:
        return all(torch.equal(target[rows[0]], target[row]) for target in self._targets for row in rows[1:])


def _bytes(tensor: Tensor) -> list[bytes]:
    flat = tensor.detach().cpu().contiguous().reshape(len(tensor), -1)
    return [row.tobytes() for row in flat.view(torch.uint8).numpy()]  # numpy has no bfloat16


def resident(data: Data | None) -> Resident | None:
    """A data set that is held in memory whole; None for others."""
    tensors = data.tensors if isinstance(data, TensorDataset) else data
    if isinstance(tensors, tuple) and len(tensors) >= 2:
        return Resident(tensors[0], tuple(tensors[1:]))
    return None
