"""Evidence made by hand, in coordinates of random directions: what a culprit sees of a run that never took place."""

import numpy as np

from largebatch.culprits import Evidence, MicroBatch, Step, Update

DIMENSIONS = 40


def update(number=1, counts=((8, 3), (7, 5)), *, weights=None, epoch=1, seed=0, previous=None, extra=0.0, **fields):
    """One update. `counts[r]` are those of rank r's micro-batches; `weights`, of the same form, is how much of each
    micro-batch's *summed* gradient is applied, by default the exact 1/N.
    """
    rng = np.random.default_rng([seed, number])
    flat = [(rank, n) for rank, row in enumerate(counts) for n in row]
    sums = np.array([n for _, n in flat])[:, None] * rng.normal(size=(len(flat), DIMENSIONS))
    total = sum(n for _, n in flat)
    shares = np.full(len(flat), 1 / total) if weights is None else np.array([w for row in weights for w in row])
    applied = shares @ sums + extra
    parts = fields.pop("micro_batches", tuple(MicroBatch(rank, float(n), n) for rank, n in flat))
    return Update(
        number=number,
        epoch=epoch,
        micro_batches=parts,
        steps=fields.pop("steps", tuple(Step(rank) for rank in range(len(counts)))),
        applied=fields.pop("applied", np.tile(applied, (len(counts), 1))),
        sums=sums,
        weights=fields.pop("parameters", np.zeros((2, DIMENSIONS))),
        previous=np.zeros(DIMENSIONS) if previous is None else previous,
        **fields,
    )


def scaled(factor, counts=((8, 3), (7, 5)), number=1, **fields):
    """An update whose gradient is the exact one times a factor."""
    total = sum(map(sum, counts))
    return update(number, counts, weights=[[factor / total for _ in row] for row in counts], **fields)


def run(*updates, world_size=2, **fields):
    return Evidence(world_size, tuple(updates), **fields)


def steps(*each, ranks=2, **same):
    """Evidence of a run of updates that differ in what the optimiser was at: `each` are fields of Step."""
    return run(
        *(
            scaled(1, number=n, steps=tuple(Step(rank, **{**same, **fields}) for rank in range(ranks)))
            for n, fields in enumerate(each, start=1)
        ),
        world_size=ranks,
    )
