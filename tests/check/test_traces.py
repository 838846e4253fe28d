"""What a pass was given is found again, or the update is not judged; a replay is allowed its rounding, leaves no trace."""

import copy
import io
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from test_loops import recorded, wrong
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from largebatch import check
from largebatch.check._assemble import assemble
from largebatch.check._run import _unseen
from largebatch.culprits._judge import findings
from largebatch.replay._samples import Reading, SampleLog


def test_parameters_in_low_precision_are_allowed_their_rounding():
    def train():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 3)).to(torch.bfloat16)
        x, y = torch.randperm(20)[:16], torch.randint(0, 3, (16,))
        check.reference(model, (x, y), each)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for a, b in zip(x.split(4), y.split(4), strict=True):
            (F.cross_entropy(model(a), b) / 4).backward()
        optimizer.step()

    run = assemble([recorded(train)])
    assert wrong(findings(run)) == []
    assert run.updates[0].tolerance == 3e-2


def each(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


def transforming(batches, peek=lambda loader: None, between=lambda loader: None):
    """A loop that transforms inputs after the loader, so that they are told by their order alone."""

    def train():
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        data = torch.utils.data.TensorDataset(torch.randn(24, 4), torch.randint(0, 3, (24,)))
        loader = torch.utils.data.DataLoader(data, batch_size=6, shuffle=True)
        check.reference(model, None, each)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        held = peek(loader)
        for _ in range(2):
            between(loader)
            for inputs, targets in batches(loader):
                optimizer.zero_grad()
                for x, y in zip(inputs.split(3), targets.split(3), strict=True):
                    (F.cross_entropy(model(2 * x - 1), y) / 2).backward()
                optimizer.step()
        del held

    record = recorded(train)
    return record, assemble([record])


def all_at_once(loader):
    batches = list(loader)
    yield from batches


def beside_another(loader):
    for pair, _ in zip(loader, loader, strict=True):
        yield pair


@pytest.mark.parametrize(
    ("settings", "judged"),
    [
        ({}, 8),
        ({"peek": lambda loader: next(iter(loader))}, 8),
        ({"between": list}, 8),  # an evaluation
        ({"peek": lambda loader: next(it := iter(loader)) and it}, 7),  # an iterator that is kept
    ],
)
def test_transformed_inputs_are_traced_to_the_newest_batch(settings, judged):
    record, run = transforming(iter, **settings)
    assert wrong(findings(run)) == []
    assert sum(update.is_judged for update in run.updates) == judged
    assert bool(record["problem"]) == (judged < 8)


@pytest.mark.parametrize("batches", [all_at_once, beside_another])
def test_transformed_inputs_that_could_be_of_several_batches_are_not_judged(batches):
    record, run = transforming(batches)
    assert findings(run) == ()
    assert not any(update.is_judged for update in run.updates)
    assert "several batches could be its source" in record["problem"]


def test_a_data_set_of_one_tensor_is_its_own_target():
    def train():
        model = nn.Linear(3, 3)
        check.reference(model, None, lambda outputs, targets: (outputs - targets).square().sum(1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x in torch.utils.data.DataLoader(cast(Any, torch.randn(8, 3)), batch_size=4):
            optimizer.zero_grad()
            (model(x) - x).square().sum(1).mean().backward()
            optimizer.step()

    run = assemble([recorded(train)])
    assert wrong(findings(run)) == []
    assert sum(update.is_judged for update in run.updates) == 2


def test_a_loss_that_raises_is_said_to_be_the_one_that_was_given():
    def train():
        model, x = nn.Linear(3, 2), torch.randn(8, 3)
        check.reference(model, (x, torch.zeros(8)), lambda outputs, targets: outputs.no_such)
        model(x).sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()

    with pytest.raises(RuntimeError, match=r"the loss given to check\.reference raised AttributeError: .*no_such"):
        recorded(train)


def test_workers_that_are_seeded_by_the_loop_are_not_judged_by_the_seed_of_the_loader():
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return torch.rand(3), 0

    for seed, known in ((None, True), (print, False)):
        loader = torch.utils.data.DataLoader(Noisy(), batch_size=4, worker_init_fn=seed)
        reading = Reading(loader, iter(loader))
        assert bool(SampleLog()._noise_of_workers(SimpleNamespace(_base_seed=1), reading, (0,))) == known


def trained(backward, before_step=lambda model: None):
    """Evidence of three updates of a small model, whose loss is made and differentiated by `backward`."""

    def train():
        torch.manual_seed(0)
        model, x, y = nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 3)), torch.randn(24, 4), torch.randint(0, 3, (24,))
        check.reference(model, (x, y), each)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for part in torch.arange(24).split(8):
            optimizer.zero_grad()
            backward(model, x[part], y[part])
            before_step(model)
            optimizer.step()

    return assemble([recorded(train)])


def plainly(model, x, y):
    F.cross_entropy(model(x), y).backward()


def in_eights(model, optimizer, x, y):
    """An update for each eight samples."""
    for rows, targets in zip(x.split(8), y.split(8), strict=True):
        optimizer.zero_grad()
        plainly(model, rows, targets)
        optimizer.step()


@pytest.mark.parametrize(
    "clip",
    [
        lambda model: nn.utils.clip_grad_value_(model.parameters(), 0.01),
        lambda model: nn.utils.clip_grads_with_norm_(
            model.parameters(), 0.01, nn.utils.get_total_norm([p.grad for p in model.parameters()])
        ),
    ],
)
def test_all_of_torchs_clipping_is_seen(clip):
    run = trained(plainly, clip)
    assert findings(run) == ()
    assert all(update.is_judged and update.steps[0].clips[0].acted for update in run.updates)


def test_passes_of_one_backward_are_judged_only_as_a_mean():
    def apart(model, x, y):
        a, b = model(x), model(x)
        (F.mse_loss(a, b) + (F.cross_entropy(a, y) + F.cross_entropy(b, y)) / 2).backward()

    def mean(model, x, y):
        ((F.cross_entropy(model(x), y) + F.cross_entropy(model(x), y)) / 2).backward()

    assert [(f.culprit, f.severity) for f in findings(trained(apart))] == [("passes_in_one_backward", "unusual")]
    assert findings(trained(mean)) == ()


class Checkpointed(nn.Module):
    """Its middle is run again in the backward pass."""

    def __init__(self, is_reentrant):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.middle = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 8))
        self.is_reentrant = is_reentrant

    def forward(self, x):
        return self.last(checkpoint(self.middle, self.first(x), use_reentrant=self.is_reentrant))


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_activation_checkpointing_is_replayed_without_a_trace(is_reentrant):
    states, records = [], []

    def train(watched):
        torch.manual_seed(0)
        model, x, y = Checkpointed(is_reentrant), torch.randn(24, 4, requires_grad=True), torch.randint(0, 3, (24,))
        if watched:
            check.reference(model, (x, y), each)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        in_eights(model, optimizer, x, y)
        states.append({**model.state_dict(), "inputs": x.grad, "random": torch.get_rng_state()})

    train(False)
    records.append(recorded(lambda: train(True)))
    run = assemble(records)
    assert wrong(findings(run)) == []
    assert sum(update.is_judged for update in run.updates) == 3
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_watched_model_can_be_saved_and_copied_and_the_copy_is_not_watched():
    def train():
        model, x, y = nn.Linear(4, 3), torch.randn(8, 4), torch.randint(0, 3, (8,))
        check.reference(model, (x, y), each)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        plainly(model, x, y)
        optimizer.step()
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        for twin in (torch.load(buffer, weights_only=False), copy.deepcopy(model)):
            plainly(twin, x, y)
            assert torch.equal(twin.weight, model.weight)
            torch.optim.SGD(twin.parameters(), lr=0.1).step()

    assert len(recorded(train)["updates"]) == 1


def test_a_loader_without_indices_is_told_from_no_loader():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([(torch.ones(3), 0)] * 8)

    def train(batches):
        model = nn.Linear(3, 2)
        check.reference(model, (torch.ones(1, 3), torch.zeros(1).long()), each)
        for x, y in batches:
            plainly(model, x, y)
            torch.optim.SGD(model.parameters(), lr=0.1).step()

    (note,) = _unseen([recorded(lambda: train(torch.utils.data.DataLoader(Stream(), batch_size=4)))], 100)
    assert note.startswith("the data set gives no indices")
    (note,) = _unseen([recorded(lambda: train([(torch.ones(4, 3), torch.zeros(4).long())]))], 100)
    assert note.startswith("no DataLoader was seen")


def test_an_output_of_which_a_part_is_trained_is_seen():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused, self.last = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x):
            return {"unused": self.unused(x), "outputs": self.last(x)}

    def train():
        model, x, y = Two(), torch.randn(8, 4), torch.randint(0, 3, (8,))
        check.reference(model, (x, y), lambda outputs, targets: each(outputs["outputs"], targets))
        F.cross_entropy(model(x)["outputs"], y).backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()

    run = assemble([recorded(train)])
    assert wrong(findings(run)) == []
    assert run.updates[0].is_judged
