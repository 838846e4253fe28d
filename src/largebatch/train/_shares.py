"""This rank's part of every global batch, in order: the same samples in the same update for every world size."""

from collections.abc import Iterator

from torch import Tensor

from largebatch.core import Loader, World, cut, permutation, rank_share
from largebatch.recipe import Timeline
from largebatch.train._augment import build_augmentation
from largebatch.train._gradient import Share

__all__ = ["shares"]

EPOCHS_PER_PHASE = 1 << 20  # epochs are numbered through all phases, so that no permutation is used twice


def shares(
    loader: Loader, timeline: Timeline, world: World, *, seed: int, phase: int, first_update: int, micro: int | None
) -> Iterator[Share]:
    """Shares from `first_update` of a phase to its end."""
    augmentation = build_augmentation(timeline.recipe.augment) if timeline.recipe.augment else None
    update = first_update
    while update < timeline.total_updates:
        epoch = timeline.batch_of(update)[0]
        key = phase * EPOCHS_PER_PHASE + epoch
        order = permutation(timeline.train_size, seed, key)
        plan: list[tuple[int, int, int, list[Tensor]]] = []
        while update < timeline.total_updates and timeline.batch_of(update)[0] == epoch:
            _, start, stop = timeline.batch_of(update)
            first, positions = _positions(order[start:stop], timeline.recipe.ghost_batch_size, world, micro)
            plan.append((update, stop - start, first, positions))
            update += 1
        batches = loader.batches([piece for row in plan for piece in row[3]], key)
        for number, batch_size, first, positions in plan:
            pieces: list[tuple[Tensor, Tensor]] = []
            for indices in positions:
                inputs, targets = next(batches)
                if augmentation is not None:
                    inputs = augmentation(inputs, indices.to(inputs.device), seed, key)
                pieces.append((inputs, targets))
            # Updates are numbered anew where the batch changes: the batch keeps their random numbers apart.
            drawn = () if timeline.recipe.batch == "fixed" else (timeline.recipe.global_batch_size,)
            yield Share((phase, number, *drawn), batch_size, first, pieces)


def _positions(batch: Tensor, ghost: int | None, world: World, micro: int | None) -> tuple[int, list[Tensor]]:
    start, stop = rank_share(len(batch), ghost, world.rank, world.size)
    own = batch[start:stop]
    bounds = [(0, len(own))] if micro is None else cut(len(own), ghost, micro)
    return start, [own[a:b] for a, b in bounds]
