"""Diverged runs are reported with the step and advice: never a stack trace, never a quiet result."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import small_tasks
from largebatch import tasks
from largebatch.core import Task, token_cross_entropy
from largebatch.recipe import Recipe
from largebatch.train import fit
from largebatch.train._divergence import LossHistory, trivial_loss


def judge(losses, first=0, *, epoch=-1, is_last=False, trivial=2.0, history=None):
    return (history or LossHistory()).judge(losses, first, epoch=epoch, is_last=is_last, trivial=trivial)


def test_the_median_of_an_epoch_is_held_against_the_trivial_loss_from_the_third_epoch():
    stuck = [2.3, *[1.9] * 19]
    assert judge(stuck, epoch=1) == ""
    assert "diverged at step 0: median train loss 1.9 in epoch 3 is no better than 0.9 × 2" in judge(stuck, epoch=2)
    assert "in epoch 2" in judge(stuck, epoch=1, is_last=True)
    assert judge([2.3, *[1.7] * 19], epoch=2) == ""
    assert judge([2.3, *[1.9] * 9, *[1.7] * 10], epoch=2, trivial=None) == ""
    assert "the loss at the start" in judge([2.3, *[2.2] * 19], epoch=2, trivial=None)


def test_the_step_named_is_the_first_above_three_times_the_start():
    history = LossHistory()
    assert judge([1.0, 2.9, 2.0], history=history) == ""
    assert judge([3.1, 50.0, 2.0], 3, history=history) == ""
    reason = judge([2.5] * 20, 6, epoch=2, history=history)
    assert reason.startswith("diverged at step 3: ")
    assert history.first_excess == 3


def descent(losses, **options):
    """What is said of a run with one update in an epoch, and at which."""
    history = LossHistory()
    for update, loss in enumerate(losses):
        reason = judge([loss], update, epoch=update, history=history, **options)
        if reason:
            return update, reason
    return None


def test_gradient_descent_that_is_slow_has_not_diverged():
    slow = [2.3 * 0.995**update for update in range(300)]
    assert slow[2] > 0.9 * 2.3
    assert descent(slow, trivial=2.3) is None


def test_a_moment_beyond_the_edge_of_stability_is_no_divergence():
    losses = [1.0 * 0.95**update for update in range(200)]
    losses[100:105] = [2.0, 4.0, 3.0, 1.5, 1.0]
    assert descent(losses, trivial=None) is None


def test_gradient_descent_that_learns_nothing_has_diverged():
    update, reason = descent([1.0, *[4.0] * 100], trivial=None)
    assert update == 59
    assert "diverged at step 1: median train loss 4 over the last 20 updates, to epoch 60, is no better" in reason


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_a_run_at_once(bad):
    assert judge([1.0, bad], 10).startswith(f"diverged at step 11: the loss is {bad} at step 11")


def test_the_trivial_loss_is_that_of_the_class_frequencies():
    targets = torch.tensor([0] * 70 + [1] * 20 + [3] * 10)
    task = small_tasks.task(train=(torch.zeros(100, 6), targets))
    entropy = -sum(p * math.log(p) for p in (0.7, 0.2, 0.1))
    assert trivial_loss(task) == pytest.approx(entropy, rel=1e-6)
    tokens = torch.cat([targets, torch.full((20,), -100)]).view(4, 30)
    text = Task("text", nn.Identity, (torch.zeros(4, 30), tokens), (torch.zeros(4, 30), tokens), token_cross_entropy)
    assert trivial_loss(text) == pytest.approx(entropy, rel=1e-6)


def test_tasks_without_classes_have_no_trivial_loss():
    def squared(outputs, targets):
        return (outputs - targets).square().sum(1)

    regression = small_tasks.task(train=(torch.zeros(10, 6), torch.zeros(10, 2)), loss=squared)
    assert trivial_loss(regression) is None
    assert trivial_loss(small_tasks.task(loss=squared)) is None


def test_many_classes_and_identifiers_cost_no_memory():
    """Classes² logits would be 40 GB here; and integers far beyond any number of classes are no classes at all."""
    many = torch.arange(100_000)
    task = small_tasks.task(train=(torch.zeros(100_000, 6), many))
    assert trivial_loss(task) == pytest.approx(math.log(100_000), rel=1e-9)
    identifiers = small_tasks.task(train=(torch.zeros(2, 6), torch.tensor([0, 1 << 40])))
    assert trivial_loss(identifiers) is None


def test_weights_that_explode_are_reported_with_the_step_and_advice(tmp_path):
    recipe = small_tasks.recipe(lr=1e30, duration="20ep", schedule="constant", precision="fp32", nesterov=False)
    run = fit(small_tasks.task(), recipe, out=tmp_path, progress=False)
    assert run.status == "diverged"
    assert run.reason.startswith("diverged at step ")
    assert "try gradual warmup" in run.reason
    good = run.reason.rpartition("the last good checkpoint is ")[2]
    assert Path(good).parent == tmp_path / "checkpoints"
    assert Path(good).is_dir()
    assert run.updates < 20 * 4
    assert fit(small_tasks.task(), recipe, out=tmp_path, progress=False).status == "diverged"
    # No checkpoint holds weights that are not finite.
    from largebatch.core import read_checkpoint

    for path in (tmp_path / "checkpoints").iterdir():
        assert all(torch.isfinite(tensor).all() for tensor in read_checkpoint(path).model_state().values())


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="needs Debian's dataset-fashion-mnist (make data)"
)
def test_f1_at_8192_with_the_full_rate_from_the_first_step_is_reported_as_diverged():
    task = tasks.get("fashion-mnist/f1")
    recipe = Recipe(8192, lr=3.2, duration="6ep", schedule="constant")
    assert any("8 updates per epoch" in warning for warning in recipe.warnings(60_000))
    run = fit(task, recipe, progress=False)
    assert run.status == "diverged"
    assert run.reason.startswith("diverged at step ")
    assert "3 × the initial loss" in run.reason
    assert "try gradual warmup" in run.reason
