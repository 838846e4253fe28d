"""From positions in the data to batches on a device: resident tensors are sliced, data sets go through a DataLoader.

A resident tensor is gathered with one `index_select`, without per-item Python. A data set's random transforms
are seeded per (seed, epoch, sample), so that neither the number of loader workers nor the world size changes them.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from largebatch.core._sampler import ghost_sizes
from largebatch.core._seeds import derive, seed_default
from largebatch.core._task import Data

__all__ = ["Loader"]


@final
class Loader:
    """Reads batches of given positions, in order, onto a device.

    Args:
        seed: of the run; keys the data set's own random transforms.
        dtype: floating-point inputs and targets are cast to it; None leaves them.
        workers: processes that read a data set ahead; resident tensors need none.
    """

    def __init__(
        self,
        data: Data,
        device: torch.device,
        *,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        workers: int = 0,
    ):
        self._device = device
        self._seed = seed
        self._dtype = dtype
        self._workers = workers
        self._data = tuple(self._place(tensor) for tensor in data) if isinstance(data, tuple) else data

    def batches(self, positions: Sequence[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """`(inputs, targets)` for each (n,) int64 vector of positions; a vector may be empty."""
        if isinstance(self._data, tuple):
            inputs, targets = self._data
            for indices in positions:
                here = indices.to(self._device)
                yield inputs.index_select(0, here), targets.index_select(0, here)
            return
        for inputs, targets in self._loader(positions, epoch):
            yield self._place(inputs), self._place(targets)

    def slices(self, start: int, stop: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The samples [start, stop) in the order of the data, in batches of `size`; nothing is padded or repeated.

        A remainder of one sample joins its neighbour, as with ghosts: alone it has no variance for a batch norm.
        """
        bounds = list(pairwise(accumulate(ghost_sizes(stop - start, size), initial=start)))
        if isinstance(self._data, tuple):
            for first, last in bounds:
                yield self._data[0][first:last], self._data[1][first:last]
        else:
            yield from self.batches([torch.arange(first, last) for first, last in bounds], epoch=0)

    def _place(self, tensor: Tensor) -> Tensor:
        dtype = self._dtype if tensor.is_floating_point() else None
        return tensor.to(self._device, dtype, non_blocking=True)

    def _loader(self, positions: Sequence[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        assert not isinstance(self._data, tuple)
        keyed = _KeyedDataset(self._data, self._seed, epoch)
        lists = [indices.tolist() for indices in positions]
        filled = [items for items in lists if items]
        loader = iter(
            DataLoader(
                keyed,
                batch_sampler=filled,
                num_workers=self._workers,
                pin_memory=self._device.type == "cuda",
                generator=torch.Generator().manual_seed(derive(self._seed, "loader", epoch)),
            )
        )
        like: tuple[Tensor, Tensor] | None = None
        for items in lists:
            if items:
                inputs, targets = next(loader)
                like = inputs, targets
                yield like
            else:  # a rank without samples still takes part: a batch of the right shape, with nothing in it
                inputs, targets = torch.utils.data.default_collate([keyed[0]]) if like is None else like
                yield inputs[:0], targets[:0]


@final
class _KeyedDataset(Dataset[Any]):
    """A data set whose random transforms see generators seeded by (seed, epoch, sample)."""

    def __init__(self, inner: Dataset[Any], seed: int, epoch: int):
        self._inner, self._seed, self._epoch = inner, seed, epoch

    def __len__(self) -> int:
        return len(self._inner)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, index: int) -> Any:
        saved = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        key = derive(self._seed, "sample", self._epoch, index)
        random.seed(key)
        np.random.seed(key % 2**32)  # noqa: NPY002
        seed_default(torch.device("cpu"), key)
        try:
            return self._inner[index]
        finally:
            random.setstate(saved[0])
            np.random.set_state(saved[1])  # noqa: NPY002
            torch.set_rng_state(saved[2])
