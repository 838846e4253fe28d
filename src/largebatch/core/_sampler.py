"""Which samples meet in which update, ghost batch, rank and micro-batch: pure arithmetic on positions.

Goyal et al. 2017 (arXiv 1706.02677), section 2.5: "use a single random shuffling of the training data (per epoch) that
is divided amongst all k workers". Here the k workers are virtual: ghost batches of n samples, the unit of batch-norm
statistics and of gradient noise. A global batch is cut into ghosts first, and ranks and micro-batches then take whole,
contiguous ghosts, so neither the world size nor the micro-batch can change what is computed.
"""

from itertools import pairwise

import torch
from torch import Tensor

from largebatch.core._seeds import generator

__all__ = ["cut", "ghost_sizes", "permutation", "rank_share"]


def permutation(size: int, seed: int, epoch: int) -> Tensor:
    """The order of one epoch, (size,) int64: the same on every rank and for every world size."""
    return torch.randperm(size, generator=generator(seed, "order", epoch))


def ghost_sizes(samples: int, ghost_batch_size: int | None) -> list[int]:
    """⌊samples/n⌋ ghosts of n and a shorter one; a remainder of 1 joins its neighbour, as one sample has no variance.

    `ghost_batch_size=None` makes the whole batch one ghost. No samples, no ghosts.
    """
    if samples == 0:
        return []
    if ghost_batch_size is None or samples <= ghost_batch_size:
        return [samples]
    full, rest = divmod(samples, ghost_batch_size)
    sizes = [ghost_batch_size] * full
    if rest == 1:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def rank_share(samples: int, ghost_batch_size: int | None, rank: int, world_size: int) -> tuple[int, int]:
    """`(start, stop)` of the contiguous whole ghosts of one rank; the ranks' counts of ghosts differ by at most 1.

    With `ghost_batch_size=None` statistics span all ranks, so the unit that is dealt out is the sample. A rank beyond
    the number of units gets an empty share.
    """
    sizes = [1] * samples if ghost_batch_size is None else ghost_sizes(samples, ghost_batch_size)
    each, more = divmod(len(sizes), world_size)
    first = rank * each + min(rank, more)
    last = first + each + (rank < more)
    start = sum(sizes[:first])
    return start, start + sum(sizes[first:last])


def cut(samples: int, ghost_batch_size: int | None, limit: int | None, pieces: int = 1) -> list[tuple[int, int]]:
    """Cut one share into micro-batches `(start, stop)` of whole ghosts.

    Args:
        limit: largest micro-batch in samples; one ghost is the least, even where it is larger. None: no limit.
        pieces: at least so many micro-batches, as far as there are ghosts.
    """
    sizes = [1] * samples if ghost_batch_size is None else ghost_sizes(samples, ghost_batch_size)
    if not sizes:
        return [(0, 0)]
    per_piece = -(-len(sizes) // max(1, min(pieces, len(sizes))))
    if limit is not None:
        per_piece = max(1, min(per_piece, limit // max(sizes)))
    bounds = [0]
    for first in range(0, len(sizes), per_piece):
        bounds.append(bounds[-1] + sum(sizes[first : first + per_piece]))
    return list(pairwise(bounds))
