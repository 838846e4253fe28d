"""What a dry run promises: counts exactly, memory and time to within what one pass can tell."""

import time

import pytest
import torch
from torch import nn

import small_tasks
from largebatch.recipe import Phase
from largebatch.train import Execution, fit, preview


def test_counts_are_those_of_the_run():
    recipe = small_tasks.recipe(60, duration="3ep")
    expected = preview(small_tasks.task(), recipe, workers=2)
    run = fit(small_tasks.task(), recipe, progress=False)
    assert (expected.total_updates, expected.total_samples) == (run.updates, run.samples)
    assert expected.parameters == sum(p.numel() for p in run.model.parameters())
    assert expected.micro_batch_size == 32  # the first rank's share: 4 of 8 ghosts
    assert expected.to_json()["updates_per_epoch"] == 4


def test_counts_include_every_phase():
    recipe = small_tasks.recipe(60, duration="3ep", then=Phase(small_tasks.recipe(203, duration="5steps")))
    expected = preview(small_tasks.task(), recipe)
    run = fit(small_tasks.task(), recipe, progress=False)
    assert (expected.total_updates, expected.total_samples) == (run.updates, run.samples)


def test_time_counts_every_gradient_of_an_update():
    def wide():
        return nn.Sequential(nn.Linear(6, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 4))

    task = small_tasks.task(wide)
    plain, twice, thrice = (
        preview(task, small_tasks.recipe(203, duration="2000ep", **changes)).expected_seconds
        for changes in ({}, {"sam_rho": 0.05}, {"proximal_strength": 1e-3, "proximal_steps": 8})
    )
    assert plain < twice < thrice


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="workers: expected at least 1, got 0"):
        preview(small_tasks.task(), small_tasks.recipe(), workers=0)


def test_memory_counts_what_backward_saves():
    """A stack of linear layers saves its inputs: known bytes per sample."""

    def stack():
        return nn.Sequential(*[nn.Linear(256, 256) for _ in range(8)], nn.Linear(256, 4))

    def bytes_at(micro):
        task = small_tasks.task(
            stack, train=small_tasks.data(512, features=256), test=small_tasks.data(8, features=256)
        )
        recipe = small_tasks.recipe(512, duration="1ep")
        return preview(task, recipe, execution=Execution(micro_batch_size=micro)).expected_bytes

    per_sample = (bytes_at(None) - bytes_at(256)) / 256
    assert per_sample == pytest.approx(9 * 256 * 8, rel=0.1)


def test_time_is_of_the_right_size():
    """Passes of some milliseconds, so that neither evaluation nor what others compute decides."""

    def wide():
        return nn.Sequential(nn.Linear(6, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 4))

    recipe = small_tasks.recipe(203, duration="10ep", precision="fp32")
    task = small_tasks.task(wide)
    fit(task, recipe, progress=False)
    expected = preview(task, recipe).expected_seconds
    begun = time.process_time()
    fit(task, recipe, progress=False)
    taken = time.process_time() - begun
    assert expected / 10 < taken < expected * 10


def test_a_preview_leaves_no_trace():
    rng = torch.get_rng_state()
    preview(small_tasks.task(small_tasks.with_dropout), small_tasks.recipe())
    assert torch.equal(rng, torch.get_rng_state())


def test_tasks_that_cannot_be_trained_are_refused_before_anything_is_written(tmp_path):
    no_test = small_tasks.task(test=(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(ValueError, match="task small/task: expected at least one sample in test, got none"):
        fit(no_test, small_tasks.recipe(), out=tmp_path / "x")
    plain = small_tasks.task(
        loss=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, reduction="none")
    )
    with pytest.raises(
        ValueError, match=r"label_smoothing: the loss of task small/task takes no keyword label_smoothing"
    ):
        fit(plain, small_tasks.recipe(label_smoothing=0.1), out=tmp_path / "x")
    with pytest.raises(TypeError, match=r"expected `model` to be a factory that returns an nn\.Module, got int"):
        fit(small_tasks.task(lambda: 3), small_tasks.recipe(), out=tmp_path / "x")
    whole = small_tasks.recipe(ghost_batch_size=None)
    with pytest.raises(ValueError, match="batch norm takes its statistics over the whole global batch, in one pass"):
        fit(small_tasks.task(), whole, out=tmp_path / "y", execution=Execution(micro_batch_size=8))
    assert not (tmp_path / "x").exists()


def image_task(model=None, size=8):
    images = torch.randn(40, 1, size, size, dtype=torch.float64), torch.randint(4, (40,))
    network = model or (lambda: nn.Sequential(nn.Flatten(), nn.Linear(size * size, 4)))
    return small_tasks.task(network, train=images, test=images)


def frozen():
    return nn.Linear(6, 4).requires_grad_(False)


LATER = small_tasks.recipe(40, duration="1ep", precision="fp32")


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        (small_tasks.task(frozen), {}, "model: expected a parameter that needs a gradient, task small/task has none"),
        (small_tasks.task(), {"global_batch_size": 1, "ghost_batch_size": None}, "batch norm expected at least 2 samples"),
        (small_tasks.task(), {"augment": ("flip",)}, "augment: "),
        (image_task(), {"then": Phase(LATER)}, "then.recipe.precision: expected fp64 in every phase, got fp32"),
    ],
)  # fmt: skip
def test_what_would_stop_a_run_in_its_middle_is_refused_before_it_writes(task, changes, message, tmp_path):
    options = {"global_batch_size": 40, "ghost_batch_size": 8} | changes
    with pytest.raises(ValueError, match=message):
        fit(task, small_tasks.recipe(options.pop("global_batch_size"), **options), out=tmp_path / "x", progress=False)
    assert not (tmp_path / "x").exists()


def test_a_later_phase_is_checked_and_all_mistakes_are_told_together(tmp_path):
    later = small_tasks.recipe(203, duration="1ep", precision="fp32", augment=("flip",))
    with pytest.raises(ValueError, match=r"(?s)then\.recipe\.precision.*then\.recipe\.augment"):
        fit(small_tasks.task(), small_tasks.recipe(then=Phase(later)), out=tmp_path / "x", progress=False)


@pytest.mark.parametrize(
    ("cadence", "message"), [("0ep", "expected a length above 0, got '0ep'"), ("soon", "checkpoint_every: ")]
)
def test_a_cadence_that_is_none_is_refused(cadence, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(small_tasks.task(), small_tasks.recipe(), out=tmp_path / "x", checkpoint_every=cadence, progress=False)
    assert not (tmp_path / "x").exists()
