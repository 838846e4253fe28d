"""Networks trained as a stack are the networks `fit` trains one by one."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import small_tasks
from largebatch import train
from largebatch.comparison import Measures
from largebatch.core import cross_entropy, read_checkpoint
from largebatch.recipe import Phase
from largebatch.results import paired_difference
from largebatch.study import Subject
from largebatch.study._looks import Looks, look_updates
from largebatch.study._stacked import Stack, can_stack
from largebatch.study._stacked_run import STACKED, is_stacked, train_stack

MEASURES = Measures(look_samples=64, curvature_samples=64)


def two_layers():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(6, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8, bias=False),
        nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4),
    )  # fmt: skip


def looks(task, recipe):
    updates = look_updates(recipe, len(task.train[1]), MEASURES)
    return Looks(updates, chunk=8, batch_size=recipe.global_batch_size, samples=64, curvature_samples=64, seed=0)


def stacked(task, recipe, seeds, path):
    folders = [path / str(seed) for seed in seeds]
    train_stack(task, recipe, seeds, [str(folder) for folder in folders], [looks(task, recipe) for _ in seeds])
    return folders


def final_state(folder):
    last = max((p for p in (folder / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    return read_checkpoint(last).model_state()


def rows(folder):
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


@pytest.mark.parametrize(
    ("optimizer", "ghost", "batch", "momentum"),
    [("sgd", 8, 64, 0.9), ("sgd", None, 64, 0.0), ("adam", 8, 100, 0.9), ("adamw", None, 64, 0.9)],
)
def test_a_stacked_run_is_the_run_of_fit(tmp_path, optimizer, ghost, batch, momentum):
    """203 samples in ghosts of 8: batches of 64 leave one of 11, batches of 100 one of 3, itself a ghost."""
    task = small_tasks.task(model=two_layers)
    recipe = small_tasks.recipe(
        batch, optimizer=optimizer, lr=0.1 if optimizer == "sgd" else 0.03, ghost_batch_size=ghost, duration="100steps",
        momentum=momentum, nesterov=momentum > 0 and optimizer == "sgd", decay_norm_and_bias=ghost is None,
        warmup="gradual(2ep,start_lr=0.02)",
    )  # fmt: skip
    folders = stacked(task, recipe, (3, 7), tmp_path)
    for seed, folder in zip((3, 7), folders, strict=True):
        run = train.fit(task, recipe, seed=seed, out=tmp_path / "alone" / str(seed), progress=False)
        assert run.status == "finished"
        ours, theirs = final_state(folder), run.model.state_dict()
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.allclose(ours[name].double(), theirs[name].double(), rtol=1e-10, atol=1e-10), name
        result = json.loads((folder / "result.json").read_text())
        assert result["metrics"] == pytest.approx(run.metrics, rel=1e-9)
        assert (result["updates"], result["samples"], result["notes"]) == (run.updates, run.samples, [STACKED])
        alone = rows(tmp_path / "alone" / str(seed))
        assert len(rows(folder)) == len(alone)
        for mine, its in zip(rows(folder), alone, strict=True):
            assert mine.pop("kind") == its.pop("kind")
            assert mine == pytest.approx(its, rel=1e-7, abs=1e-9)


def test_looks_of_a_stacked_run_are_those_of_fit(tmp_path):
    task, recipe = small_tasks.task(model=two_layers), small_tasks.recipe(duration="40steps")
    seen = looks(task, recipe)
    train.fit(task, recipe, seed=3, observers=[seen], progress=False)
    (folder,) = stacked(task, recipe, (3,), tmp_path)
    last = max((p for p in (folder / "checkpoints").iterdir()), key=lambda p: int(p.name))
    kept = read_checkpoint(last).training_state()["observers"]["looks"]["rows"]
    assert len(kept) == len(seen.rows) >= 4
    for mine, its in zip(kept, seen.rows, strict=True):
        assert mine["values"] == pytest.approx(its["values"], rel=1e-5)


def test_a_network_does_not_depend_on_its_neighbours(tmp_path):
    """To the bit: so it does not matter which seeds an interrupted study still has to train."""
    task, recipe = small_tasks.task(model=two_layers), small_tasks.recipe(precision="fp32", duration="60steps")
    stacked(task, recipe, (1, 2, 3, 4), tmp_path / "together")
    apart = [*stacked(task, recipe, (3,), tmp_path / "alone"), *stacked(task, recipe, (1, 4), tmp_path / "pair")]
    for folder in apart:
        ours, theirs = final_state(folder), final_state(tmp_path / "together" / folder.name)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("ghost", [None, 32])
@pytest.mark.parametrize("batch", [16, 512])
def test_in_a_large_stack_neither(batch, ghost):
    """Layers of 784 and 100 inputs: products of another size may be summed in another order."""
    networks = [wide_layers(seed) for seed in range(5)]
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, batch, 784, generator=generator), torch.randint(10, (5, batch), generator=generator)
    together = Stack(networks, ghost)
    losses, _ = together.gradient(x, y)
    for part in ([0], [1, 2], [3, 4]):
        stack = Stack([networks[k] for k in part], ghost)
        apart, _ = stack.gradient(x[part], y[part])
        assert torch.equal(apart, losses[part])
        assert all(torch.equal(grad, together.grads[name][part]) for name, grad in stack.grads.items())
        assert all(torch.equal(value, together.buffers[name][part]) for name, value in stack.buffers.items())


def wide_layers(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 10))


def test_what_another_study_has_trained_is_not_trained_again(tmp_path):
    task, recipe = small_tasks.task(model=two_layers), small_tasks.recipe()
    (folder,) = stacked(task, recipe, (1,), tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    stacked(task, recipe, (1, 2), tmp_path)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_one_diverges_and_the_others_go_on(tmp_path):
    task = small_tasks.task(model=two_layers)
    recipe = small_tasks.recipe(duration="20ep", schedule="constant", lr=30.0)
    run = train.fit(task, recipe, seed=0, progress=False)
    assert run.status == "diverged"
    (folder,) = stacked(task, recipe, (0,), tmp_path)
    found = json.loads((folder / "result.json").read_text())
    assert (found["status"], found["updates"]) == ("diverged", run.updates)
    assert found["reason"].startswith("diverged at step")
    assert found["reason"].split(":")[0] == run.reason.split(":")[0]  # the losses themselves are chaotic by then


def test_a_finished_stacked_run_is_found_by_fit(tmp_path):
    task, recipe = small_tasks.task(model=two_layers), small_tasks.recipe()
    (folder,) = stacked(task, recipe, (5,), tmp_path)
    run = train.fit(task, recipe, seed=5, out=folder, progress=False)
    assert run.notes == (STACKED,)
    assert torch.equal(run.model.state_dict()["7.weight"], final_state(folder)["7.weight"])


def test_what_cannot_be_stacked_is_not():
    task, recipe = small_tasks.task(model=two_layers), small_tasks.recipe()
    assert is_stacked(task, recipe)
    assert is_stacked(task, replace(recipe, optimizer="adamw"))
    assert not is_stacked(small_tasks.task(model=small_tasks.with_dropout), recipe)
    assert not is_stacked(replace(task, loss=partial(cross_entropy, label_smoothing=0.1)), recipe)
    assert not is_stacked(
        replace(task, model=lambda: nn.Sequential(nn.Linear(6, 20_000), nn.Linear(20_000, 4))), recipe
    )
    for changes in (
        {"optimizer": "lamb"}, {"clip_norm": 1.0}, {"sam_rho": 0.05}, {"label_smoothing": 0.1}, {"augment": ("flip",)},
        {"proximal_strength": 1e-3}, {"precision": "bf16"}, {"then": Phase(recipe)},
    ):  # fmt: skip
        assert not is_stacked(task, replace(recipe, **changes)), changes


def test_layers_with_other_settings_are_refused():
    assert not can_stack(nn.Linear(3, 2))
    assert not can_stack(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, momentum=None)))
    assert not can_stack(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False)))
    frozen = nn.Sequential(nn.Linear(3, 2))
    frozen[0].weight.requires_grad_(False)
    assert not can_stack(frozen)


def test_the_written_gradient_is_autograds():
    models = [two_layers().double() for _ in range(3)]
    stack = Stack(models, 8)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 19, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(4, (3, 19), generator=generator)
    losses, _ = stack.gradient(inputs, targets)
    from largebatch.core import swap_batchnorm

    for number, model in enumerate(models):
        swap_batchnorm(model, 8)
        loss = cross_entropy(model(inputs[number]), targets[number]).mean()
        loss.backward()
        assert float(losses[number]) == pytest.approx(loss.item(), rel=1e-12)
        for name, p in model.named_parameters():
            assert torch.allclose(stack.grads[name][number], p.grad, rtol=1e-10, atol=1e-13), name


@pytest.mark.slow
def test_over_20_seeds_stacked_digits_are_as_accurate_as_one_by_one(tmp_path):
    """In float32 single runs part after some hundred steps; their mean does not."""
    task = Subject("digits/mlp").load()
    recipe = task.recipe.replace(duration="5ep")
    seeds = tuple(range(20))
    folders = stacked(task, recipe, seeds, tmp_path)
    ours = [json.loads((folder / "result.json").read_text())["metrics"]["test_accuracy"] for folder in folders]
    theirs = [train.fit(task, recipe, seed=seed, progress=False).metrics["test_accuracy"] for seed in seeds]
    difference = paired_difference(ours, theirs)
    assert difference.low <= 0 <= difference.high
