"""What a dry run promises: counts exactly, memory and time to within what one pass can tell."""

import time

import pytest
import torch
from torch import nn

import small_tasks
from largebatch.train import Execution, fit, preview


def test_counts_are_those_of_the_run():
    recipe = small_tasks.recipe(60, duration="3ep")
    expected = preview(small_tasks.task(), recipe, workers=2)
    run = fit(small_tasks.task(), recipe, progress=False)
    assert (expected.total_updates, expected.total_samples) == (run.updates, run.samples)
    assert expected.parameters == sum(p.numel() for p in run.model.parameters())
    assert expected.micro_batch_size == 32  # the first rank's share: 4 of 8 ghosts
    assert expected.to_json()["updates_per_epoch"] == 4


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
    recipe = small_tasks.recipe(64, duration="40ep", precision="fp32")
    task = small_tasks.task()
    fit(task, recipe, progress=False)
    expected = preview(task, recipe).expected_seconds
    begun = time.perf_counter()
    fit(task, recipe, progress=False)
    taken = time.perf_counter() - begun
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
