"""Samplers, copies of parameters, optimisers, and what changes with the number of workers: found, and near misses not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils import data

from culprits.loop_evidence import run, scaled, update
from largebatch.check._assemble import assemble
from largebatch.culprits import Epoch, FirstStep, MicroBatch, Parameter, Step
from largebatch.culprits._judge import findings
from largebatch.replay import reference
from largebatch.replay._samplers import described_sampler

N = 16


def names(evidence, other=None):
    return [f.culprit for f in findings(evidence, other)]


def read(first, second=None, *, is_complete=True, data_size=N, **fields):
    """A run of which only the order of samples is known: `first[r]` and `second[r]` are rank r's in two epochs."""
    epochs = [Epoch(rank, 1, tuple(indices), is_complete) for rank, indices in enumerate(first)]
    epochs += [Epoch(rank, 2, tuple(indices), False) for rank, indices in enumerate(second or ())]
    return run(epochs=tuple(epochs), world_size=len(first), data_size=data_size, **fields)


ORDER = np.random.default_rng(0).permutation(N).tolist()
OTHER = np.random.default_rng(1).permutation(N).tolist()
HALVES, OTHER_HALVES = (ORDER[:8], ORDER[8:]), (OTHER[:8], OTHER[8:])


def test_a_split_permutation_is_right():
    assert names(read(HALVES, OTHER_HALVES)) == []
    assert names(read((ORDER[:5], ORDER[5:]), (OTHER[:5], OTHER[5:]))) == []  # unequal shares are no mistake


def test_padding():
    padded = (ORDER[:8], ORDER[8:15] + ORDER[:1])
    (found,) = findings(read(padded, data_size=15))
    assert found.culprit == "duplicates_from_padding"
    assert f"1 of 15 samples were read more than once ({ORDER[0]})" in found.evidence
    assert names(read(padded, data_size=15, with_replacement=True)) == []
    assert names(read(padded, data_size=15, is_complete=False)) == []  # half an epoch proves nothing


def test_every_worker_reads_everything():
    assert names(read((ORDER, OTHER))) == ["workers_read_same_data"]
    assert names(read((ORDER, OTHER), with_replacement=True)) == []


def parts(*of_ranks):
    return tuple(MicroBatch(rank, len(indices), len(indices), tuple(indices)) for rank, indices in enumerate(of_ranks))


def test_two_workers_read_the_same_batch():
    assert names(run(update(counts=((4,), (4,)), micro_batches=parts(ORDER[:4], ORDER[:4])))) == [
        "workers_read_same_data"
    ]
    assert names(run(update(counts=((4,), (4,)), micro_batches=parts(ORDER[:4], ORDER[3:7])))) == []


def test_the_same_batch_is_told_by_its_content_where_indices_are_not_known():
    def both(a, b):
        return (MicroBatch(0, 4, 4, content=a), MicroBatch(1, 4, 4, content=b))

    assert names(run(update(counts=((4,), (4,)), micro_batches=both("x", "x")))) == ["workers_read_same_data"]
    assert names(run(update(counts=((4,), (4,)), micro_batches=both("x", "y")))) == []


def test_samples_never_seen():
    cut = (ORDER[:6], ORDER[6:12])
    batch = {"data_size": N}
    with_updates = read(cut, cut, **batch)
    assert "samples_never_seen" in names(with_updates)
    dropped = read((ORDER[:7], ORDER[7:15]), (OTHER[:7], OTHER[7:15]))  # less than a batch, and others next time
    assert names(dropped) == []


def test_a_sampler_that_repeats_on_purpose_is_not_called_padding():
    drawn = np.random.default_rng(2).integers(N, size=N).tolist()
    for evidence in (read((drawn,)), read((drawn[:8], drawn[8:])), read((ORDER + ORDER[:1],))):
        assert [(f.culprit, f.severity) for f in findings(evidence) if f.culprit != "samples_never_seen"] == [
            ("samples_repeated", "unusual")
        ]


def test_samples_that_a_sampler_leaves_out_on_purpose():
    half = (ORDER[:4], ORDER[4:8])
    assert names(read(half)) == ["samples_never_seen"]
    assert names(read(half, population=tuple(ORDER[:8]))) == []
    assert names(read(half, population=tuple(ORDER[:12]))) == ["samples_never_seen"]
    assert [f.severity for f in findings(read(half, has_own_sampler=True))] == ["unusual"]


@pytest.mark.parametrize(
    ("sampler", "population", "on_purpose", "is_own"),
    [
        (data.SubsetRandomSampler(range(4)), [0, 1, 2, 3], False, False),
        (data.RandomSampler(range(N), num_samples=4), [], True, False),
        (data.RandomSampler(range(N)), [], False, False),
        (data.WeightedRandomSampler([1.0] * N, 4, replacement=False), [], True, False),
        (data.DistributedSampler(range(N), 2, 0), [], False, False),
        (list(range(4)), [], False, True),
    ],
)
def test_what_a_sampler_is_meant_to_read(sampler, population, on_purpose, is_own):
    samples = data.TensorDataset(torch.zeros(N))
    told = {"with_replacement": on_purpose, "population": population, "has_own_sampler": is_own}
    assert described_sampler(data.DataLoader(samples, sampler=sampler)) == told
    batches = data.BatchSampler(sampler, 2, drop_last=False)
    assert described_sampler(data.DataLoader(samples, batch_sampler=batches)) == told
    assert described_sampler(data.DataLoader(samples, sampler=batches, batch_size=None)) == told


def test_a_batch_sampler_of_ones_own():
    samples = data.TensorDataset(torch.zeros(N))
    own = described_sampler(data.DataLoader(samples, batch_sampler=[[0, 1], [2]]))
    assert own == {"with_replacement": False, "population": [], "has_own_sampler": True}


def test_a_sampler_that_lightning_splits_over_the_ranks():
    from lightning.fabric.utilities.distributed import DistributedSamplerWrapper

    samples = data.TensorDataset(torch.zeros(N))
    weighted = DistributedSamplerWrapper(data.WeightedRandomSampler([1.0] * N, N), num_replicas=2, rank=0)
    assert described_sampler(data.DataLoader(samples, sampler=weighted))["with_replacement"]


def test_gradients_that_were_not_replayed_are_not_known_to_be_the_same():
    """As those after the first ones: each worker's clipping is then no sign of clipping too early."""
    step = {"rates": [], "momenta": [], "buffer_drift": 1.0, "scheduler_calls": [], "loss_scale": 1.0,
            "without_gradient": []}  # fmt: skip
    part = {"count": 4.0, "samples": 4, "indices": [], "content": "", "noise": []}
    common = {"epoch": 1, "micro_batches": [part], "sums": [], "is_moved": False, "is_joint": False, "tolerance": 5e-4}
    record = {
        "epochs": [], "parameters": [], "first_steps": [], "optimizer": "SGD", "data_size": 0, "with_replacement": False,
        "population": [], "has_own_sampler": False, "has_batch_norm": False, "world_size": 2,
    }  # fmt: skip

    def ranks(**fields):
        clips = ([{"position": 1, "norm": norm, "limit": 1.0, "is_scaled": False}] for norm in (3.0, 4.0))
        return assemble([record | {"updates": [common | {"step": step | {"clips": c}} | fields]} for c in clips])

    assert names(ranks(applied=torch.ones(3), previous=None)) == ["clipped_before_averaging"]
    assert names(ranks()) == []


def test_the_same_permutation_every_epoch():
    assert names(read(HALVES, (ORDER[:4], ORDER[8:12]))) == ["same_order_every_epoch"]
    assert names(read(HALVES, OTHER_HALVES)) == []
    seen = tuple(update(n, epoch=2) for n in range(1, 5))  # two batches a worker in each
    for few, expected in ((seen[:3], []), (seen, ["same_order_every_epoch"])):  # buckets may come in one order twice
        evidence = replace(read(HALVES, (ORDER[:4], ORDER[8:12]), has_own_sampler=True), updates=few)
        assert names(evidence) == expected
    in_order = (list(range(8)), list(range(8, 16)))
    (found,) = findings(read(in_order, in_order))
    assert (found.culprit, found.severity) == ("not_shuffled", "unusual")


def test_augmentation():
    def noisy(a, b):
        return (MicroBatch(0, 4, 4, (1,), noise=tuple(a)), MicroBatch(1, 4, 4, (2,), noise=tuple(b)))

    assert names(run(update(counts=((4,), (4,)), micro_batches=noisy("s", "s")))) == ["augmentation_same_on_workers"]
    assert names(run(update(counts=((4,), (4,)), micro_batches=noisy("s", "t")))) == []
    assert names(run(update(counts=((4,), (4,)), micro_batches=noisy("as", "bs")))) == ["augmentation_same_on_workers"]
    assert names(run(update(counts=((4,), (4,)), micro_batches=noisy("", "")))) == []  # none is drawn


def test_parameters_that_differ():
    (found,) = findings(run(scaled(1), scaled(1, number=2, spread=0.3)))
    assert found.culprit == "parameters_differ"
    assert found.evidence.startswith("from update 2 on")
    assert names(run(scaled(1, spread=1e-9))) == []


def test_decay_on_vectors_and_unused_parameters():
    matrix, bias = Parameter("w", 2, 1e-4), Parameter("b", 1, 1e-4)
    assert names(run(scaled(1), parameters=(matrix, bias))) == ["decay_on_norm_and_bias"]
    assert names(run(scaled(1), parameters=(matrix, Parameter("b", 1, 0.0)))) == []
    assert names(run(scaled(1), parameters=(matrix, Parameter("v", 2, float("nan"))))) == ["unused_parameters"]
    always, once = Step(0, without_gradient=("w",)), Step(0)
    assert names(run(scaled(1, steps=(always, always)))) == ["unused_parameters"]
    assert names(run(scaled(1, steps=(always, once)), scaled(1, number=2, steps=(once, once)))) == []


def first_step(*, trust, decay, norm=4.0, gradient=2.0):
    """LARS by the paper with η = trust; trust None: the plain step."""
    decayed = gradient + decay * norm  # parallel, for simplicity
    local = 1.0 if trust is None else trust * norm / (gradient + decay * norm)
    return FirstStep("w", 64, norm, gradient, decayed, 0.1 * local * decayed, 0.1, decay)


def test_trust_ratio_of_lars():
    def found(*each, optimizer="Lars"):
        return names(run(scaled(1), optimizer=optimizer, first_steps=each))

    assert found(first_step(trust=None, decay=0.0)) == ["trust_ratio_not_the_papers"]
    assert found(first_step(trust=0.001, decay=0.0)) == []
    assert found(first_step(trust=0.001, decay=1e-4), first_step(trust=None, decay=0.0)) == []  # left out on purpose
    assert found(first_step(trust=None, decay=0.0), optimizer="SGD") == []


def test_trust_ratio_of_lamb():
    def found(step_norm):
        return names(
            run(scaled(1), optimizer="Lamb", first_steps=(FirstStep("w", 64, 4.0, 2.0, 2.0, step_norm, 0.1, 0.0),))
        )

    assert found(0.1 * 8.0) == ["trust_ratio_not_the_papers"]  # Adam's first step: ±1 in each of 64 entries
    assert found(0.1 * 4.0) == []


def test_copies_that_never_met():
    assert names(run(scaled(1, ((8,),)), world_size=1, is_distributed=False, replicas=2)) == ["not_distributed"]
    assert names(run(scaled(1, ((8,),)), world_size=1, is_distributed=False, replicas=1)) == []


def ordered(shares, size):
    return run(
        *(
            update(n, tuple((len(part),) for part in share), micro_batches=parts(*share))
            for n, share in enumerate(shares, 1)
        ),
        world_size=size,
        data_size=N,
    )


def test_order_at_another_number_of_workers():
    two = ordered([(ORDER[:2], ORDER[2:4]), (ORDER[4:6], ORDER[6:8])], 2)
    same = ordered([(ORDER[:4],), (ORDER[4:8],)], 1)
    other = ordered([(OTHER[:4],), (OTHER[4:8],)], 1)
    assert names(two, same) == []
    assert names(two, other) == ["order_depends_on_workers"]


def test_batch_norm_at_another_number_of_workers():
    def sized(*counts, has=True):
        return run(scaled(1, counts), world_size=len(counts), has_batch_norm=has)

    assert names(sized((8,), (8,)), sized((16,))) == ["batch_norm_batch_changes"]
    assert names(sized((8,), (8,)), sized((8,))) == []
    assert names(sized((8,), (8,), has=False), sized((16,), has=False)) == []


@pytest.mark.parametrize(("rate", "expected"), [(0.2, 0), (0.1, 0), (0.1 * 2**0.5, 0), (0.37, 1)])
def test_rates_at_another_number_of_workers(rate, expected):
    def at(*counts, rate):
        return run(
            scaled(1, counts, steps=tuple(Step(r, rates=(rate,)) for r in range(len(counts)))), world_size=len(counts)
        )

    found = names(at((8,), (8,), rate=rate), at((8,), rate=0.1))
    assert found == ["rate_follows_no_rule"] * expected


def test_reference_says_what_it_needs():
    from torch import nn

    model = nn.Linear(2, 2)
    assert reference(model, None, lambda outputs, targets: outputs) is model
    with pytest.raises(
        TypeError, match=r"model: expected a torch\.nn\.Module, got str; give the model that is trained"
    ):
        reference("model", None, print)  # pyright: ignore
    with pytest.raises(
        TypeError, match=r"loss: expected a function \(outputs, targets\) → one value per example, got None"
    ):
        reference(model)
