"""Dropout whose masks belong to samples, not to processes: the same for every world size and micro-batch.

torch draws a mask for whatever batch a process happens to hold, so two workers, or two micro-batches, train another network
than one. Here the mask of the samples at positions [32·j, 32·j + 32) of a global batch comes from a generator of its own,
keyed by (seed, update, layer, j), and each process takes the rows it needs.
"""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from largebatch.core._seeds import generator

__all__ = ["KeyedDropout", "swap_dropout"]

ROWS = 32  # samples per generator: seeding one costs as much as drawing some thousand numbers


@final
class KeyedDropout(nn.Dropout):
    """Like nn.Dropout; once it was told its `place`, its masks are keyed by position in the global batch."""

    def __init__(self, p: float, number: int):
        super().__init__(p)
        self._number = number
        self._key: tuple[int, ...] | None = None
        self._seed = 0
        self._start = 0
        self._calls = 0

    def place(self, seed: int, key: tuple[int, ...], start: int) -> None:
        """The next samples are those from position `start` of the global batch `key`."""
        self._seed, self._key, self._start, self._calls = seed, key, start, 0

    def release(self) -> None:
        """Draw from torch's generator again, as nn.Dropout does."""
        self._key = None

    def forward(self, input: Tensor) -> Tensor:
        """input: (samples, …)."""
        if not self.training or self.p == 0.0 or self._key is None:
            return F.dropout(input, self.p, self.training)
        keep = 1.0 - self.p
        return input * self._mask(input, keep).div_(keep) if keep else input * 0.0

    def _mask(self, x: Tensor, keep: float) -> Tensor:
        assert self._key is not None
        stop = self._start + len(x)
        blocks: list[Tensor] = []
        for j in range(self._start // ROWS, -(-stop // ROWS)):
            source = generator(self._seed, "dropout", *self._key, self._number, self._calls, j, device=x.device)
            block = torch.empty(ROWS, *x.shape[1:], dtype=x.dtype, device=x.device)
            blocks.append(block.bernoulli_(keep, generator=source))
        self._calls += 1  # a layer that is used twice in one pass draws twice
        if not blocks:
            return torch.ones_like(x)
        first = self._start // ROWS * ROWS
        return torch.cat(blocks)[self._start - first : stop - first]


def swap_dropout(model: nn.Module) -> list[KeyedDropout]:
    """Replace every nn.Dropout of a model, in place; returns the new layers, to be told their places before each pass.

    Other random layers keep torch's generator, which the loop seeds for each micro-batch: exact at resume, but a function of
    the micro-batch.
    """
    replaced: dict[int, KeyedDropout] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if type(child) in (nn.Dropout, KeyedDropout):
                assert isinstance(child, nn.Dropout)
                if id(child) not in replaced:
                    replaced[id(child)] = KeyedDropout(child.p, len(replaced)).train(child.training)
                setattr(parent, name, replaced[id(child)])
    return list(replaced.values())
