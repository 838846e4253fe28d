"""Culprits of the sampler: one random permutation per epoch, split over the ranks, each sample once.

Goyal et al. 2017 (arXiv 1706.02677), section 2.5, remark 4. torch's DistributedSampler repeats samples to make ranks
equal, or drops them, and shuffles anew only if set_epoch is called.
"""

from collections import Counter

from largebatch.culprits._evidence import Epoch, Evidence
from largebatch.culprits._verdict import Finding

__all__ = [
    "augmentation_same_on_workers",
    "duplicates_from_padding",
    "not_shuffled",
    "same_order_every_epoch",
    "samples_never_seen",
    "samples_repeated",
    "workers_read_same_data",
]

FEW_BATCHES = 7  # the chance of the same order is at most 1/7!


def _epoch(run: Evidence, number: int) -> list[Epoch]:
    return [epoch for epoch in run.epochs if epoch.number == number and epoch.indices]


def _whole_epoch(run: Evidence) -> list[Epoch]:
    """The first epoch, by rank, if every rank's was read to its end."""
    first = _epoch(run, 1)
    return first if len(first) == run.world_size and all(epoch.is_complete for epoch in first) else []


def workers_read_same_data(run: Evidence) -> Finding | None:
    """Two ranks use the same samples in the same update, or every rank goes through all the data."""
    shared = _same_in_an_update(run)
    if shared is not None:
        number, share = shared
        evidence = f"update {number}: {100 * share:.0f} % of the samples of worker 1 are samples of worker 0"
    else:
        counts = Counter(index for epoch in _whole_epoch(run) for index in epoch.indices)
        if run.world_size < 2 or not counts or run.with_replacement or not _mostly(counts, run.world_size):
            return None
        number, evidence = None, f"in one epoch most samples were read {run.world_size} times, once by every worker"
    return Finding(
        "workers_read_same_data", "wrong", evidence,
        "give the loader a DistributedSampler (or your own split of one permutation), so that every worker reads its "
        "own part",
        update=number,
    )  # fmt: skip


def _mostly(counts: Counter[int], times: int) -> bool:
    return sum(count >= times for count in counts.values()) > 0.9 * len(counts)


def _same_in_an_update(run: Evidence) -> tuple[int, float] | None:
    for update in run.updates:
        parts: dict[int, set[object]] = {}
        for part in update.micro_batches:
            parts.setdefault(part.rank, set()).update(part.indices or ([part.content] if part.content else []))
        if {0, 1} <= parts.keys() and parts[1]:
            share = len(parts[0] & parts[1]) / len(parts[1])
            if share > 0.5:
                return update.number, share
    return None


def duplicates_from_padding(run: Evidence) -> Finding | None:
    """Samples that are read twice so that all ranks have the same number: in the last batches, less than one a rank."""
    evidence = _repeated(run)
    if not evidence or not _is_padding(run):
        return None
    return Finding(
        "duplicates_from_padding", "wrong",
        evidence,
        "DistributedSampler (drop_last=False) and Accelerate (even_batches=True) repeat samples until all workers have "
        "equally "
        "many: choose a data size that the workers divide, drop_last=True, or unequal shares with the loss weighted by "
        "samples",
    )  # fmt: skip


def samples_repeated(run: Evidence) -> Finding | None:
    """Samples that are read twice, and not to make ranks equal: weighted and balanced samplers do so."""
    evidence = _repeated(run)
    if not evidence or _is_padding(run):
        return None
    return Finding(
        "samples_repeated", "unusual", evidence,
        "nothing, if your sampler draws with replacement or balances classes; otherwise let it read each sample once",
    )  # fmt: skip


def _repeated(run: Evidence) -> str:
    """What was read more than once in a whole epoch, in words; "" if nothing was, or on purpose."""
    whole = _whole_epoch(run)
    if run.with_replacement or not whole or workers_read_same_data(run) is not None:
        return ""
    counts = Counter(index for epoch in whole for index in epoch.indices)
    twice = sorted(index for index, count in counts.items() if count > 1)
    named = ", ".join(map(str, twice[:5])) + (", …" if len(twice) > 5 else "")
    return f"in one epoch {len(twice)} of {len(counts)} samples were read more than once ({named})" if twice else ""


def _is_padding(run: Evidence) -> bool:
    whole = _whole_epoch(run)
    batch = max((sum(part.samples for part in update.micro_batches if part.rank == rank)
                 for update in run.updates for rank in range(run.world_size)), default=1)  # fmt: skip
    read = [index for epoch in whole for index in epoch.indices]
    before_last = [index for epoch in whole for index in epoch.indices[:-batch]]
    surplus = len(read) - len(set(read))
    return run.world_size > 1 and surplus < run.world_size * batch and len(set(before_last)) == len(before_last)


def samples_never_seen(run: Evidence) -> Finding | None:
    """Samples that no rank reads. What a reshuffled epoch drops for want of a full batch comes up in another."""
    whole = _whole_epoch(run)
    if not whole or not run.data_size or run.with_replacement:
        return None
    population = run.population or range(run.data_size)
    missing = sorted(set(population) - {index for epoch in whole for index in epoch.indices})
    batch = max((update.samples for update in run.updates), default=0)
    reshuffled = (
        len(_epoch(run, 2)) == run.world_size and same_order_every_epoch(run) is None and not_shuffled(run) is None
    )
    if not missing or (len(missing) < max(batch, 2) and (reshuffled or not _epoch(run, 2))):
        return None
    named = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
    return Finding(
        "samples_never_seen", "unusual" if run.has_own_sampler else "wrong",
        f"{len(missing)} of {len(population)} samples were read by no worker in a whole epoch ({named})",
        "split one permutation of all the data over the workers; drop_last without reshuffling drops the same samples "
        "for ever",
    )  # fmt: skip


def _repeats(run: Evidence) -> list[Epoch]:
    """The second epoch by rank, if on every rank it begins as the first one did."""
    first, second = _epoch(run, 1), _epoch(run, 2)
    if not first or len(first) != len(second):
        return []
    same = all(b.indices and a.indices[: len(b.indices)] == b.indices[: len(a.indices)]
               for a, b in zip(first, second, strict=True))  # fmt: skip
    return second if same and min(len(epoch.indices) for epoch in second) > 1 else []


def _is_sequential(epoch: Epoch) -> bool:
    return list(epoch.indices) == sorted(epoch.indices)


def same_order_every_epoch(run: Evidence) -> Finding | None:
    """A random permutation, but always the same one."""
    repeated = _repeats(run)
    if not repeated or all(_is_sequential(epoch) for epoch in repeated) or (run.has_own_sampler and _is_chance(run)):
        return None
    begin = ", ".join(map(str, repeated[0].indices[:5]))
    return Finding(
        "same_order_every_epoch", "wrong",
        f"epoch 2 reads the samples in the order of epoch 1 ({begin}, …)",
        "call sampler.set_epoch(epoch) (loader.sampler or loader.batch_sampler has it) at the start of every epoch",
    )  # fmt: skip


def _is_chance(run: Evidence) -> bool:
    """Whether so few batches of the second epoch were seen that the same order may be drawn: buckets shuffle whole ones."""
    again = Counter(part.rank for update in run.updates if update.epoch == 2 for part in update.micro_batches)
    return min(again.values(), default=0) < FEW_BATCHES


def not_shuffled(run: Evidence) -> Finding | None:
    """The order of the data set, in every epoch."""
    repeated = _repeats(run)
    if not repeated or not all(_is_sequential(epoch) for epoch in repeated):
        return None
    return Finding(
        "not_shuffled", "unusual",
        "every epoch reads the samples in the order of the data set",
        "shuffle, unless the data set is in random order and you want it so",
    )  # fmt: skip


def augmentation_same_on_workers(run: Evidence) -> Finding | None:
    """All ranks augment with the same random numbers: W samples in a row get the same crop."""
    for update in run.updates:
        noises = [
            {state for part in update.micro_batches if part.rank == rank for state in part.noise}
            for rank in range(run.world_size)
        ]
        if run.world_size > 1 and set.intersection(*noises):
            return Finding(
                "augmentation_same_on_workers", "wrong",
                f"update {update.number}: all {run.world_size} workers drew their augmentation from the same random state",
                "seed augmentation by rank, or better by (seed, epoch, sample), after the weights were initialised: "
                "torch.manual_seed(seed + rank), and a generator of its own for each loader",
                update=update.number,
            )  # fmt: skip
    return None
