"""A recipe's rate in people's own loops: the values themselves, resume in every order, groups, wrappers."""

import io
from typing import Any

import pytest
import torch
from torch import nn

from largebatch.optimizers import build_optimizer, build_scheduler
from largebatch.recipe import Recipe, Timeline

TRAIN_SIZE = 100  # at batch 32: updates of 32, 32, 32 and 4 samples
RECIPE = Recipe(
    32, lr=0.8, duration="6ep", schedule="step(3ep,5ep)", warmup="gradual(2ep,start_lr=0.1)", ghost_batch_size=None
)
# Written out: the rate rises by (0.8 - 0.1)/200 a sample over 200 samples, and falls tenfold at samples 300 and 500.
SAMPLES = [100 * epoch + 32 * batch for epoch in range(6) for batch in range(4)]
RATES = [0.1 + 0.0035 * s if s < 200 else 0.8 if s < 300 else 0.08 if s < 500 else 0.008 for s in SAMPLES]


def parameters():
    return [("w", nn.Parameter(torch.ones(2, 2))), ("b", nn.Parameter(torch.ones(2)))]


def build(recipe: Any = RECIPE) -> Any:
    return build_optimizer(parameters(), recipe)


def gradient_of(optimizer):
    def gradient(first=True):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)

    return gradient


def rates_of(optimizer, scheduler, updates):
    """(updates, groups) rates that the updates are made with."""
    rows = []
    for _ in range(updates):
        rows.append([float(group["lr"]) for group in optimizer.param_groups])
        assert scheduler.get_last_lr() == rows[-1]
        optimizer.step(gradient_of(optimizer))
        scheduler.step()
    return rows


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": "sgd"},
        {"optimizer": "adam"},
        {"optimizer": "adamw"},
        {"optimizer": "lars"},
        {"optimizer": "lamb"},
        {"sam_rho": 0.05},
        {"proximal_strength": 0.1},
    ],
)
def test_the_rate_of_every_update_is_the_recipes(fields):
    optimizer = build(RECIPE.replace(**fields))
    rows = rates_of(optimizer, build_scheduler(optimizer, RECIPE, TRAIN_SIZE), len(RATES))
    for row, rate in zip(rows, RATES, strict=True):
        assert row == [pytest.approx(rate, rel=1e-14)] * 2


def test_goyals_warmup_reaches_the_peak_at_exactly_five_epochs():
    recipe = Recipe(256, lr=0.1).at(8192)
    timeline = Timeline(recipe, 1_281_167)
    optimizer = build(recipe)
    scheduler = build_scheduler(optimizer, recipe, 1_281_167)
    assert scheduler.get_last_lr()[0] == pytest.approx(0.1)
    scheduler.step_to(5 * 1_281_167)
    assert scheduler.get_last_lr() == [3.2, 3.2]
    scheduler.step_to(5 * 1_281_167 // 2)
    assert scheduler.get_last_lr()[0] == pytest.approx((0.1 + 3.2) / 2)
    assert scheduler.last_epoch == timeline.updates_until(5 * 1_281_167 // 2)


@pytest.mark.parametrize("schedule", ["cosine", "polynomial(2)", "constant", "step(3ep)"])
def test_updates_after_the_end_keep_the_last_rate(schedule):
    recipe = RECIPE.replace(schedule=schedule)
    optimizer = build(recipe)
    rows = rates_of(optimizer, build_scheduler(optimizer, recipe, TRAIN_SIZE), len(RATES) + 5)
    assert rows[-5:] == [[Timeline(recipe, TRAIN_SIZE).rate(600)] * 2] * 5


@pytest.mark.parametrize("at", [1, 7, 23])
@pytest.mark.parametrize("order", ["load after", "load before", "scheduler first", "last_update"])
def test_a_resumed_schedule_goes_on_exactly(order, at):
    optimizer = build()
    optimizer.param_groups[1]["lr"] = 0.2
    scheduler = build_scheduler(optimizer, RECIPE, TRAIN_SIZE)
    rates_of(optimizer, scheduler, at)
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), scheduler.state_dict()], file)
    expected = rates_of(optimizer, scheduler, 5)

    file.seek(0)
    of_optimizer, of_scheduler = torch.load(file, weights_only=True)
    again = build()
    again.param_groups[1]["lr"] = 0.2
    if order == "load before":
        again.load_state_dict(of_optimizer)
    last_update = at - 1 if order == "last_update" else -1
    resumed = build_scheduler(again, RECIPE, TRAIN_SIZE, last_update=last_update)
    if order == "scheduler first":
        resumed.load_state_dict(of_scheduler)
    if order in ("load after", "scheduler first"):
        again.load_state_dict(of_optimizer)
    if order in ("load after", "load before"):
        resumed.load_state_dict(of_scheduler)
    assert rates_of(again, resumed, 5) == expected


def test_a_group_keeps_its_share_of_the_rate():
    (_, w), (_, b) = parameters()
    optimizer = torch.optim.SGD([{"params": [w]}, {"params": [b], "lr": 0.05}], lr=0.5)
    rows = rates_of(optimizer, build_scheduler(optimizer, RECIPE, TRAIN_SIZE), len(RATES))
    assert [row[0] for row in rows] == pytest.approx(RATES, rel=1e-14)
    assert [row[1] for row in rows] == pytest.approx([0.1 * rate for rate in RATES], rel=1e-14)


def test_a_later_phase_on_the_same_optimizer_keeps_the_shares():
    optimizer = build()
    optimizer.param_groups[1]["lr"] = 0.1 * RECIPE.lr
    rates_of(optimizer, build_scheduler(optimizer, RECIPE, TRAIN_SIZE), 3)
    then = RECIPE.replace(lr=2.0, warmup="none", schedule="constant")
    carried = build(then)
    carried.load_state_dict(optimizer.state_dict())
    for of_the_second_phase in (optimizer, carried):
        assert build_scheduler(of_the_second_phase, then, TRAIN_SIZE).get_last_lr() == pytest.approx([2.0, 0.2])


def test_after_another_scheduler_the_rate_is_the_recipes():
    optimizer = build()
    other = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5)
    optimizer.step(gradient_of(optimizer))
    other.step()
    assert build_scheduler(optimizer, RECIPE, TRAIN_SIZE).get_last_lr() == [RATES[0]] * 2


def test_a_rate_may_be_a_tensor():
    rate = torch.tensor(0.3, dtype=torch.float64)
    optimizer = torch.optim.AdamW(parameters(), lr=rate)
    scheduler = build_scheduler(optimizer, RECIPE, TRAIN_SIZE)
    rows = rates_of(optimizer, scheduler, 8)
    assert [row[0] for row in rows] == pytest.approx(RATES[:8], rel=1e-14)
    scheduler.step_to(200)
    assert rate.item() == 0.8
    assert optimizer.param_groups[0]["lr"] is rate


def test_step_to_and_step_agree():
    stepped, counted = build(), build()
    by_update, by_samples = (build_scheduler(o, RECIPE, TRAIN_SIZE) for o in (stepped, counted))
    for samples in SAMPLES[1:]:
        stepped.step(gradient_of(stepped))
        by_update.step()
        by_samples.step_to(samples)
        assert by_samples.get_last_lr() == by_update.get_last_lr()
        assert (
            by_samples.state_dict()
            == by_update.state_dict()
            == {"last_epoch": by_update.last_epoch, "samples": samples}
        )


def test_accumulation_steps_the_schedule_once_an_update():
    """The loop of the docstring, in micro-batches of 8: the same weights as whole batches."""
    weights = []
    for micro_batch in (8, 32):
        model = nn.Linear(2, 1).double()
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(0.5)
        inputs = torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(32, 2)
        optimizer: Any = build_optimizer(model, RECIPE)
        scheduler = build_scheduler(optimizer, RECIPE, TRAIN_SIZE)
        for _ in range(10):
            for piece in inputs.split(micro_batch):
                (model(piece).square().sum() / RECIPE.global_batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        assert scheduler.last_epoch == 10
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-12, atol=1e-12)


def test_stepping_before_the_optimizer_is_told_by_torch():
    scheduler = build_scheduler(build(), RECIPE, TRAIN_SIZE)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


def test_torchs_deprecated_argument_is_the_number_of_the_update():
    optimizer = build()
    scheduler = build_scheduler(optimizer, RECIPE, TRAIN_SIZE)
    optimizer.step(gradient_of(optimizer))
    with pytest.warns(UserWarning, match="deprecated"):
        scheduler.step(5)
    assert scheduler.samples == SAMPLES[5]
    assert scheduler.get_last_lr()[0] == pytest.approx(RATES[5])


def test_a_rate_of_unknown_origin_is_refused():
    optimizer = build()
    optimizer.step(gradient_of(optimizer))
    for group in optimizer.param_groups:
        group["lr"] = 0.123  # somewhere on a schedule that left no record
    again = build()
    again.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="no record of the rate it started from: build the scheduler first, then load"):
        build_scheduler(again, RECIPE, TRAIN_SIZE)

    first = build()
    scheduler = build_scheduler(first, RECIPE, TRAIN_SIZE)
    first.load_state_dict(optimizer.state_dict())
    scheduler.step_to(300)
    assert scheduler.get_last_lr() == [pytest.approx(0.08)] * 2


def test_a_recipe_that_does_not_fit_the_data_is_refused():
    with pytest.raises(ValueError, match="global_batch_size: expected at most the 20 samples"):
        build_scheduler(build(), RECIPE, 20)
