"""The loop: against training written plainly, over world sizes and micro-batches, and what it leaves behind."""

import itertools
import json

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import small_tasks
from largebatch import core
from largebatch.core import permutation
from largebatch.recipe import Phase, Recipe, Timeline
from largebatch.results import RunFolder
from largebatch.train import Execution, build_model, fit
from oracles import plain_training
from ranks import run_ranks


def weights(run):
    return torch.cat([p.detach().double().reshape(-1) for p in run.model.state_dict().values()])


def batches_of(task, timeline, seed):
    for update in range(timeline.total_updates):
        epoch, start, stop = timeline.batch_of(update)
        chosen = permutation(timeline.train_size, seed, epoch)[start:stop]
        yield task.train[0][chosen], task.train[1][chosen]


@pytest.mark.parametrize("ghost", [8, 7, None])
@pytest.mark.parametrize("nesterov", [True, False])
def test_fifty_steps_equal_training_written_plainly(ghost, nesterov):
    task = small_tasks.task()
    recipe = small_tasks.recipe(ghost_batch_size=ghost, nesterov=nesterov, warmup="gradual(2ep,start_lr=0.01)")
    timeline = Timeline(recipe, 203)
    start = build_model(task, 3).double()
    rates = [timeline.rate(timeline.samples_before(update)) for update in range(50)]
    expected, running, losses = plain_training.train(
        [p.detach() for p in start.parameters()], (torch.zeros(10).double(), torch.ones(10).double()),
        batches_of(task, timeline, 3), rates, ghost=ghost, momentum=0.9, weight_decay=1e-2, nesterov=nesterov,
    )  # fmt: skip
    run = fit(task, recipe, seed=3, progress=False)
    for found, wanted in zip(run.model.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(run.model[1].running_var, running[1], rtol=1e-12, atol=1e-12)
    assert run.updates == 50
    assert losses[-1] < losses[0]


def fit_all(samples, batch, ghost, micros):
    """For each micro-batch: fifty steps in float64, and the first step in float32."""
    found = []
    with core.world_from_environment(torch.device("cpu")):
        for micro, (precision, duration) in itertools.product(micros, [("fp64", "50steps"), ("fp32", "1steps")]):
            recipe = small_tasks.recipe(batch, ghost_batch_size=ghost, precision=precision, duration=duration)
            task = small_tasks.task(small_tasks.with_dropout, samples)
            run = fit(task, recipe, seed=1, execution=Execution(micro_batch_size=micro), progress=False)
            found.append((weights(run), run.updates, run.metrics))
    return found


CASES = {
    "a last batch of one ghost": (197, 64, 8),
    "a remainder of one sample": (193, 64, 8),
    "ghosts that do not divide over ranks": (203, 60, 8),
    "statistics over the whole batch": (203, 60, None),
}


@pytest.mark.parametrize("case", CASES)
def test_world_size_and_micro_batch_do_not_matter(case):
    samples, batch, ghost = CASES[case]
    double, single = fit_all(samples, batch, ghost, [None])
    micros = [None, 20] if ghost else [None]
    for world_size in (1, 2, 3, 4):
        for rows in run_ranks(fit_all, world_size, samples, batch, ghost, micros):
            for found, updates, metrics in rows[0::2]:
                assert updates == double[1]
                assert (found - double[0]).abs().max() <= 1e-12 * double[0].abs().max()
                assert metrics == pytest.approx(double[2], rel=1e-9)
            for found, _, _ in rows[1::2]:
                assert (found - single[0]).norm() <= 1e-6 * single[0].norm()


def small_convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 5, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def fit_images(channels_last):
    x = torch.randn(14, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    task = small_tasks.task(small_convolutions, train=(x, torch.arange(14) % 5), test=(x[:3], torch.arange(3)))
    recipe = small_tasks.recipe(5, ghost_batch_size=2, duration="4steps")
    return weights(fit(task, recipe, execution=Execution(channels_last=channels_last), progress=False))


def test_memory_formats_and_empty_ranks_do_not_matter():
    """A last batch of 4 samples is 2 ghosts for 3 ranks."""
    expected = fit_images(channels_last=False)
    for channels_last in (False, True):
        for found in [fit_images(channels_last), *run_ranks(fit_images, 3, channels_last)]:
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


class Pairs(Dataset):
    """A data set on disk would look like this: items one by one, with a random transform."""

    def __init__(self, samples, noisy):
        self.x, self.targets = small_tasks.data(samples)
        self.noisy = noisy

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] + (0.1 * torch.randn(6).double() if self.noisy else 0), self.targets[i]


def fit_data_set(workers, micro, noisy):
    task = small_tasks.task(train=Pairs(203, noisy), test=Pairs(61, False))
    execution = Execution(loader_workers=workers, micro_batch_size=micro)
    return weights(fit(task, small_tasks.recipe(duration="2ep"), execution=execution, progress=False))


def test_data_sets_train_like_tensors_and_transforms_belong_to_samples():
    plain = weights(
        fit(small_tasks.task(test=small_tasks.data(61)), small_tasks.recipe(duration="2ep"), progress=False)
    )
    torch.testing.assert_close(fit_data_set(0, None, False), plain, rtol=1e-12, atol=1e-12)
    noisy = fit_data_set(0, None, True)
    assert not torch.allclose(noisy, plain)
    torch.testing.assert_close(fit_data_set(2, 20, True), noisy, rtol=1e-12, atol=1e-12)
    for found in run_ranks(fit_data_set, 4, 0, None, True):
        torch.testing.assert_close(found, noisy, rtol=1e-12, atol=1e-12)


def test_a_run_folder_holds_what_the_hypotheses_are_judged_by(tmp_path):
    recipe = small_tasks.recipe(duration="3ep")
    run = fit(small_tasks.task(), recipe, out=tmp_path / "{task}-{digest}", log_every=1, progress=False)
    folder = RunFolder(run.folder)
    assert folder.path.name.startswith("small-task-")
    rows = folder.log()
    updates = [row for row in rows if row["kind"] == "update"]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert [row["update"] for row in updates] == list(range(12))
    assert [row["samples"] for row in epochs] == [203, 406, 609]
    assert {"held_out_loss", "held_out_accuracy", "train_loss", "train_accuracy"} <= epochs[0].keys()
    # Path and distance, recomputed: the last step ends at the run's weights, the path is the sum of the steps.
    start = build_model(small_tasks.task(), 0).double()
    end = dict(run.model.named_parameters())
    distance = sum(((end[name] - p) ** 2).sum() for name, p in start.named_parameters()) ** 0.5
    assert updates[-1]["distance"] == pytest.approx(distance.item(), rel=1e-12)
    assert updates[-1]["path_length"] == pytest.approx(sum(row["step_norm"] for row in updates), rel=1e-12)
    assert json.loads((folder.path / "result.json").read_text())["status"] == "finished"
    kept = sorted(int(path.name) for path in folder.checkpoints.iterdir())
    assert kept[0] == 0
    assert kept[-2:] == [406, 609]


def test_a_finished_run_is_not_repeated(tmp_path):
    first = fit(small_tasks.task(), small_tasks.recipe(), out=tmp_path, progress=False)
    before = (tmp_path / "result.json").stat().st_mtime_ns
    again = fit(small_tasks.task(), small_tasks.recipe(), out=tmp_path, progress=False)
    assert again == first
    assert torch.equal(weights(again), weights(first))
    assert (tmp_path / "result.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"holds run [0-9a-f]{12}, but this task, recipe and seed make run"):
        fit(small_tasks.task(), small_tasks.recipe(), seed=1, out=tmp_path, progress=False)


def test_initial_weights_depend_on_model_and_seed_alone():
    a, b = build_model(small_tasks.task(), 5), build_model(small_tasks.task(samples=50), 5)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    rng = torch.get_rng_state()
    fit(small_tasks.task(), small_tasks.recipe(duration="2steps"), progress=False)
    assert torch.equal(rng, torch.get_rng_state())


@pytest.mark.parametrize("carry", ["weights", "all"])
def test_a_phase_counts_from_its_switch_and_carries_what_it_says(carry):
    later = small_tasks.recipe(203, lr=0.05, duration="4steps", schedule="constant")
    recipe = small_tasks.recipe(duration="2ep", schedule="constant", then=Phase(later, carry=carry))
    run = fit(small_tasks.task(), recipe, progress=False)
    assert run.updates == 8 + 4
    assert run.samples == 2 * 203 + 4 * 203
    # By hand: the first phase is a run of its own, then four full-batch steps.
    first = fit(small_tasks.task(), small_tasks.recipe(duration="2ep", schedule="constant"), progress=False)
    assert not torch.allclose(weights(first), weights(run))
    other = fit(
        small_tasks.task(),
        recipe.replace(then=Phase(later, carry="all" if carry == "weights" else "weights")),
        progress=False,
    )
    assert not torch.allclose(weights(other), weights(run))


def test_a_weighted_loss_is_divided_by_the_global_weight():
    def loss(outputs, targets):
        values = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
        return values, (targets + 1).to(values.dtype)

    recipe = small_tasks.recipe(
        203,
        duration="1steps",
        ghost_batch_size=None,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.0,
        schedule="constant",
    )
    task = small_tasks.task(loss=loss, metrics={})
    run = fit(task, recipe, progress=False)
    model = build_model(task, 0).double().train()
    values, w = loss(model(task.train[0]), task.train[1])
    ((values * w).sum() / w.sum()).backward()
    for found, p in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found.detach(), (p - 0.1 * p.grad).detach(), rtol=1e-11, atol=1e-13)


def masked(outputs, targets):
    """Nothing of class 3 counts."""
    values = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
    return values, (targets != 3).to(values.dtype)


def test_a_batch_whose_targets_are_all_masked_changes_nothing():
    inputs, targets = small_tasks.data(64)
    nothing = targets * 0 + 3
    options = {"duration": "1steps", "weight_decay": 0.0}
    task = small_tasks.task(loss=masked, metrics={}, train=(inputs, nothing), test=(inputs, targets))
    with pytest.raises(ValueError, match="the weights of the loss are all 0: unmask some, or leave the split out"):
        fit(task, small_tasks.recipe(**options), progress=False)
    half = small_tasks.task(
        loss=masked, metrics={}, train=(inputs.repeat(2, 1), torch.cat([nothing, targets])), test=(inputs, targets)
    )
    run = fit(half, small_tasks.recipe(16, **(options | {"duration": "3ep"})), progress=False)
    assert run.status == "finished", run.reason


def test_the_model_that_is_returned_trains_in_anybodys_loop():
    """Ghost batch norm moves its statistics at each forward pass again, and dropout draws from torch's generator."""
    model = fit(small_tasks.task(small_tasks.with_dropout), small_tasks.recipe(duration="1ep"), progress=False).model
    model.train()
    before = model[1].running_mean.clone()
    x = small_tasks.data(32)[0]
    first = model(x)
    assert not torch.equal(model[1].running_mean, before)
    assert not torch.equal(model(x), first)


def test_clipping_acts_on_the_aggregate_and_not_on_micro_batches():
    options = {"duration": "1steps", "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "schedule": "constant"}
    recipe = small_tasks.recipe(64, clip_norm=0.01, **options)
    for micro in (None, 8):
        run = fit(small_tasks.task(), recipe, execution=Execution(micro_batch_size=micro), progress=False)
        start = build_model(small_tasks.task(), 0).double()
        step = sum(((a - b) ** 2).sum() for a, b in zip(run.model.parameters(), start.parameters(), strict=True)) ** 0.5
        assert step.item() == pytest.approx(0.1 * 0.01, rel=1e-4)  # torch adds 1e-6 to the norm


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "lars", "lamb"])
@pytest.mark.parametrize("wrapper", [{}, {"sam_rho": 0.05}, {"proximal_strength": 1e-2}])
def test_every_optimiser_trains_and_gives_the_same_on_any_micro_batch(optimizer, wrapper):
    lr = {"sgd": 0.1, "lars": 5.0, "lamb": 0.02}.get(optimizer, 0.01)
    recipe = small_tasks.recipe(optimizer=optimizer, lr=lr, nesterov=optimizer == "sgd", duration="5ep", **wrapper)
    task = small_tasks.task(small_tasks.without_bias)
    whole = fit(task, recipe, progress=False)
    cut = fit(task, recipe, execution=Execution(micro_batch_size=16), progress=False)
    torch.testing.assert_close(weights(whole), weights(cut), rtol=1e-10, atol=1e-10)
    assert whole.status == "finished", whole.reason
    assert whole.metrics["test_accuracy"] > 0.5


def test_bf16_trains_with_float32_weights():
    run = fit(small_tasks.task(), small_tasks.recipe(precision="bf16", duration="10ep"), progress=False)
    assert next(run.model.parameters()).dtype == torch.float32
    assert run.metrics["test_accuracy"] > 0.5


def test_a_task_without_a_recipe_needs_one():
    with pytest.raises(ValueError, match="task small/task brings none, so pass one"):
        fit(small_tasks.task())


def test_evaluation_counts_every_sample_once():
    task = small_tasks.task()
    run = fit(task, small_tasks.recipe(duration="1ep"), progress=False)
    run.model.eval()
    for split in ("train", "test"):
        x, y = getattr(task, split)
        with torch.no_grad():
            outputs = run.model(x)
        loss = torch.nn.functional.cross_entropy(outputs, y)
        assert run.metrics[f"{split}_loss"] == pytest.approx(loss.item(), rel=1e-12)
        assert run.metrics[f"{split}_accuracy"] == pytest.approx((outputs.argmax(1) == y).double().mean().item())


def test_recipes_scale_in_training_as_on_paper():
    recipe = Recipe(16, lr=0.02, duration="4ep", ghost_batch_size=16, precision="fp64").at(64)
    rows = []

    class Rates:
        name = "rates"
        wants = staticmethod(lambda update: core.Request())
        see = staticmethod(lambda view: rows.append(view.lr))
        see_epoch = staticmethod(lambda view: None)
        state_dict = staticmethod(dict)
        load_state_dict = staticmethod(lambda state: None)

    fit(small_tasks.task(), recipe, observers=[Rates()], progress=False)
    assert rows[0] == 0.02
    assert max(rows) == pytest.approx(0.08, rel=0.02)
