"""A replay is the pass again, under the conditions of the pass, and the user's model and metrics do not notice."""

from contextlib import nullcontext
from typing import Any, cast

import pytest
import torch
from test_loops import recorded, wrong
from test_traces import each, in_eights, plainly, trained
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from largebatch import check
from largebatch.check._assemble import assemble
from largebatch.culprits._judge import findings
from largebatch.recording import Recorder
from largebatch.recording._frameworks import lightning_watched


def judged(run):
    return sum(update.is_judged for update in run.updates)


def deviations(run):
    return [float(((u.applied[0] - u.reference) ** 2).sum() ** 0.5) for u in run.updates]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.LSTM(1, 5, num_layers=2, dropout=0.2), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.inner(x.T[..., None])[0][-1])


class Overwriting(nn.Module):
    """Standardises its input in place."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(x.sub_(0.5).div_(2.0))


class Counting(nn.Module):
    """Its output depends on a buffer, a counter and a generator of its own, which every pass moves."""

    seen: torch.Tensor

    def __init__(self):
        super().__init__()
        self.last, self.passes, self.generator = nn.Linear(4, 3), 0, torch.Generator().manual_seed(0)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        self.passes += 1
        return self.last(x) * (self.seen + 1 / self.passes + torch.rand((), generator=self.generator))


@pytest.mark.parametrize(
    "make", [Recurrent, Overwriting, Counting, lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))]
)
def test_networks_that_keep_or_overwrite_something_are_replayed_as_they_were(make):
    def train():
        torch.manual_seed(0)
        model, x, y = make().double(), torch.randn(24, 4, dtype=torch.float64), torch.randint(0, 3, (24,))
        check.reference(model, TensorDataset(x, y), each)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for i, (a, b) in enumerate(DataLoader(TensorDataset(x, y), batch_size=4)):
            (F.cross_entropy(model(a), b) / 2).backward()
            if i % 2:
                optimizer.step()
                optimizer.zero_grad()
        ends.append({**model.state_dict(), "random": torch.get_rng_state()})
        if isinstance(model, Counting):
            assert model.passes == model.seen == 6

    ends: list[dict[str, torch.Tensor]] = []
    train()
    run = assemble([recorded(train)])
    assert judged(run) == 3
    assert max(deviations(run)) < 1e-12
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


@pytest.mark.parametrize("inside", [True, False])
def test_a_replay_is_under_the_autocast_of_the_pass_and_not_of_the_step(inside):
    low = torch.autocast("cpu", dtype=torch.bfloat16)
    dtypes = []

    def noting(outputs, targets):
        dtypes.append(outputs.dtype)
        return each(outputs, targets)

    def train():
        torch.manual_seed(0)
        model, x, y = nn.Linear(30, 20), torch.randn(64, 30), torch.randint(0, 20, (64,))
        check.reference(model, (x, y), noting)
        with low if inside else nullcontext():
            outputs = model(x)
        F.cross_entropy(outputs, y).backward()
        with nullcontext() if inside else low:
            torch.optim.SGD(model.parameters(), lr=0.1).step()

    run = assemble([recorded(train)])
    assert wrong(findings(run)) == []
    assert dtypes == [torch.bfloat16 if inside else torch.float32]


def test_an_autocast_inside_the_pass_is_allowed_its_rounding():
    class Inside(nn.Linear):
        def forward(self, input):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(input).float()

    def train(model):
        x, y = torch.randn(24, 30), torch.randint(0, 20, (24,))
        check.reference(model, (x, y), each)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        (3 * F.cross_entropy(model(x), y, reduction="sum") / 72).backward()
        optimizer.step()

    torch.manual_seed(0)
    run = assemble([recorded(lambda: train(Inside(30, 20)))])
    assert wrong(findings(run)) == []
    assert run.updates[0].tolerance == 3e-2
    assert assemble([recorded(lambda: train(nn.Linear(30, 20)))]).updates[0].tolerance == 5e-4


class Noting(nn.Module):
    """A trainer's module with metrics, as Lightning's users have them."""

    def __init__(self):
        super().__init__()
        from torchmetrics import MeanMetric

        self.net, self.mean, self.outputs, self.seen = nn.Linear(4, 3), MeanMetric(), [], 0
        self.sums = {"inputs": torch.zeros(())}

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.mean(loss.detach())
        self.outputs.append(loss.detach())
        self.seen += len(x)
        self.sums["inputs"] += x.sum()
        self.last_loss = loss.detach()
        return loss


def test_metrics_of_a_trainers_step_are_not_counted_twice():
    def train(recorder):
        torch.manual_seed(0)
        module, x, y = Noting(), torch.randn(12, 4), torch.randint(0, 3, (12,))
        with lightning_watched(module, recorder) if recorder else nullcontext():
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
            for i in range(3):
                module.training_step((x[4 * i : 4 * i + 4], y[4 * i : 4 * i + 4]), i).backward()
                optimizer.step()
                optimizer.zero_grad()
        metric = cast(Any, module.mean)
        return [metric.compute(), torch.tensor(metric._update_count), torch.stack(module.outputs),
                torch.tensor(module.seen), module.sums["inputs"], module.last_loss]  # fmt: skip

    recorder = Recorder(stops=False)
    with recorder.installed():
        watched = train(recorder)
    assert judged(assemble([recorder.record()])) == 3
    assert all(torch.equal(a, b) for a, b in zip(train(None), watched, strict=True))


def test_sparse_gradients_are_held_against_the_reference():
    def train():
        torch.manual_seed(0)
        model, x, y = (
            nn.Sequential(nn.Embedding(30, 4, sparse=True), nn.Flatten()),
            torch.arange(24),
            torch.arange(24) % 4,
        )
        check.reference(model, (x, y), each)
        optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)
        for part in x.split(8):
            optimizer.zero_grad()
            plainly(model, part, y[part])
            optimizer.step()

    run = assemble([recorded(train)])
    assert judged(run) == 3
    assert findings(run) == ()


def test_a_model_that_learns_its_shapes_and_what_is_frozen_after_it_was_told_is_followed():
    def train():
        torch.manual_seed(0)
        model, x, y = nn.Sequential(nn.Linear(4, 5), nn.LazyLinear(3)), torch.randn(24, 4), torch.randint(0, 3, (24,))
        check.reference(model, (x, y), each)
        model(x[:8])
        model[0].requires_grad_(False)
        optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
        in_eights(model, optimizer, x, y)

    run = assemble([recorded(train)])
    assert judged(run) == 3
    assert findings(run) == ()


def test_a_compiled_model_is_followed():
    def train():
        torch.manual_seed(0)
        model, x, y = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.2)), torch.randn(24, 4), torch.randint(0, 3, (24,))
        compiled = cast(nn.Module, torch.compile(model, backend="eager"))
        check.reference(compiled, (x, y), each)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        in_eights(compiled, optimizer, x, y)

    run = assemble([recorded(train)])
    assert judged(run) == 3
    assert findings(run) == ()


def resident(x, y, dtype=torch.float32, given=None):
    """The record of one update on the first four rows."""

    def train():
        torch.manual_seed(0)
        model = nn.Linear(4, 3, dtype=dtype)
        check.reference(model, (x, y), each)
        F.cross_entropy(model((x if given is None else given)[:4]), y[:4]).backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()

    return recorded(train)


def test_equal_inputs_are_judged_if_their_targets_agree():
    torch.manual_seed(0)
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 0])
    x[5], x[4] = x[0], x[1]
    assert judged(assemble([resident(x, y)])) == 1
    record = resident(x, torch.tensor([0, 1, 2, 0, 2, 0]))
    assert judged(assemble([record])) == 0
    assert "1 of 4 inputs are equal to several samples whose targets differ" in record["problem"]


def test_inputs_in_half_precision_are_found_again():
    torch.manual_seed(0)
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 0])
    low = x.bfloat16()
    for record in (resident(low, y, torch.bfloat16), resident(x, y, torch.bfloat16, given=low)):
        run = assemble([record])
        assert judged(run) == 1
        assert wrong(findings(run)) == []


def test_an_evaluation_that_could_be_trained_on_is_no_epoch():
    def train():
        torch.manual_seed(0)
        model, x, y = nn.Linear(4, 3), torch.randn(24, 4), torch.randint(0, 3, (24,))
        data, held_out = TensorDataset(x, y), TensorDataset(torch.randn(8, 4), torch.randint(0, 3, (8,)))
        check.reference(model, data, each)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            for a, b in DataLoader(data, batch_size=6, shuffle=True):
                optimizer.zero_grad()
                plainly(model, a, b)
                optimizer.step()
            for a, b in DataLoader(held_out, batch_size=4):  # in training mode, with gradients that nobody uses
                F.cross_entropy(model(a), b).item()

    record = recorded(train)
    assert [epoch["number"] for epoch in record["epochs"]] == [1, 2]
    assert [len(epoch["indices"]) for epoch in record["epochs"]] == [24, 24]
    assert findings(assemble([record])) == ()


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("fused", [False, True])
def test_a_first_step_that_the_grad_scaler_skips_is_no_update(fused):
    def train():
        torch.manual_seed(0)
        model, x, y = nn.Linear(4, 3), torch.randn(24, 4), torch.randint(0, 3, (24,))
        check.reference(model, (x, y), each)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        for part in torch.arange(24).split(8):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x[part]), y[part])).backward()
            if part[0] == 0:
                cast(torch.Tensor, model.weight.grad)[0, 0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()

    run = assemble([recorded(train)])
    assert findings(run) == ()
    assert len(run.updates) == judged(run) == 2


def test_dropout_in_a_plain_loop_is_the_same_again():
    run = trained(plainly)
    assert judged(run) == 3
    assert findings(run) == ()
