"""Means over blocks of consecutive looks, in constant memory: what intervals of a run that drifts are made of.

Looks close together are no independent measurements, for the weights have hardly moved. Means over blocks longer than that
memory are nearly so, and what the run drifts counts as their spread (batch means: Conway 1963, Management Science 10:47;
blocks that double when there are too many: Fishman 1978, Operations Research 26:1017).
"""

from typing import Any, final

import torch
from torch import Tensor

__all__ = ["BlockMeans"]

_MOST = 32  # blocks; half as many remain when they are joined in pairs


@final
class BlockMeans:
    """Means of rows of k numbers over 16 to 32 blocks of equal length; of single rows while there are fewer.

    Args:
        width: k.
    """

    def __init__(self, width: int):
        self._sums = torch.zeros(_MOST, width, dtype=torch.float64)
        self._length = 1  # rows in a block
        self.rows = 0
        """Rows added so far."""

    @property
    def means(self) -> Tensor:
        """(blocks, k) float64, of the blocks that are complete; nearly all rows."""
        return self._sums[: self.rows // self._length] / self._length

    def add(self, row: Tensor) -> None:
        """Add one row (k,)."""
        if self.rows == _MOST * self._length:
            joined = self._sums[0::2] + self._sums[1::2]
            self._sums.zero_()
            self._sums[: len(joined)] = joined
            self._length *= 2
        self._sums[self.rows // self._length] += row.double().cpu()
        self.rows += 1

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts."""
        return {"sums": self._sums.clone(), "length": self._length, "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the sums."""
        self._sums, self._length, self.rows = state["sums"].clone(), state["length"], state["rows"]
