"""Rates are tuned on validation data: what the test set says makes no difference."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import designs
import pytest
import torch

from largebatch.comparison import _subject as subjects
from largebatch.study import Cell, Subject, run_study, tune_rates
from largebatch.study._tune import FACTORS, SEED, scaled


@pytest.fixture
def here():
    with ThreadPoolExecutor(1) as executor:
        yield executor


def study_of(task):
    slow = replace(designs.SMALL, lr=5e-3)  # far too low: any fair search goes to the edge
    return replace(designs.two_cells(task, seeds=(0,)), cells=(Cell("slow", slow),), contrasts=())


def tuned(task, out, executor):
    grids = []

    def run(grid):
        grids.append(grid)
        return run_study(grid, out, executor=executor)

    return tune_rates(study_of(task), run), grids[0]


def test_the_best_rate_on_validation_data_is_taken_and_told(tmp_path, here):
    task = f"{designs.write_task(tmp_path)}:stacked"
    study, grid = tuned(task, tmp_path / "a", here)
    assert study.cells[0].recipe.lr == pytest.approx(2e-2)
    assert any("best rate at the edge of the grid: slow" in note for note in study.notes)
    assert grid.seeds == (SEED,)
    assert len(grid.cells) == len(FACTORS)
    trained = grid.subject_of(grid.cells[0]).load()
    assert (len(trained.train[1]), len(trained.validation[1])) == (461, 51)
    assert study.subject_of(study.cells[0]).validation == 0.0


def test_the_test_set_has_no_say(tmp_path, here, monkeypatch):
    """With the labels of the test set permuted, so that a high rate looks bad there, the same rates are chosen."""
    task = f"{designs.write_task(tmp_path)}:stacked"
    plain, _ = tuned(task, tmp_path / "a", here)
    find = subjects.find

    def spoilt(name):
        found = find(name)
        inputs, targets = found.test
        return replace(found, test=(inputs, (targets + torch.arange(len(targets))) % 3))

    monkeypatch.setattr(subjects, "find", spoilt)
    subjects._found.cache_clear()
    subjects._load.cache_clear()
    try:
        again, _ = tuned(task, tmp_path / "b", here)
    finally:
        subjects._found.cache_clear()
        subjects._load.cache_clear()
    assert [cell.recipe for cell in again.cells] == [cell.recipe for cell in plain.cells]


def test_warmup_and_later_phases_are_scaled_along():
    recipe = designs.SMALL.at(128)
    twice = scaled(recipe, 2.0)
    assert twice.lr == 2 * recipe.lr
    assert twice.warmup.start_lr == 2 * recipe.warmup.start_lr
    assert scaled(recipe, 1.0) == recipe


def test_a_part_of_the_data_keeps_the_share_of_every_class():
    whole = Subject("digits/mlp").load()
    part = Subject("digits/mlp", samples=500, validation=0.1).load()
    assert (len(part.train[1]), len(part.validation[1])) == (500, 144)
    shares = [torch.bincount(targets, minlength=10) / len(targets) for targets in (whole.train[1], part.train[1])]
    assert torch.allclose(*shares, atol=1.5 / 500)
    assert part.name == "digits/mlp[500]"


def test_more_samples_than_there_are_are_refused():
    with pytest.raises(ValueError, match="samples: expected 1 to 1437 of the training data of digits/mlp, got 2000"):
        Subject("digits/mlp", samples=2000).load()


def test_the_convex_control_is_convex():
    """Its Hessian has no negative eigenvalue, wherever one looks."""
    from largebatch.core import Risk
    from largebatch.curvature import Hessian

    task = Subject("digits/mlp", samples=64, network="softmax").load()
    torch.manual_seed(0)
    model = task.model().double()
    risk = Risk(model, task.loss, task.train, dtype=torch.float64)
    hessian = Hessian(risk)
    dense = torch.stack([hessian @ column for column in torch.eye(risk.dimension, dtype=torch.float64)[:40]])
    assert torch.linalg.eigvalsh(dense[:, :40]).min() > -1e-12
