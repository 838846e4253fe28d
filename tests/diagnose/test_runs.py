"""Run folders are read as they were written, and what cannot be compared is refused with the reason."""

import json
import shutil

import pytest
import torch

from largebatch import train
from largebatch.core import Task
from largebatch.curvature import LambdaMax
from largebatch.diagnose._runs import find_task, read_groups, read_run
from small_tasks import recipe, task


def fit(folder, *, batch=32, seed=0, what=None, **options):
    observers = options.pop("observers", ())
    what = task() if what is None else what
    settings = recipe(batch, duration="2ep", **options)
    return train.fit(what, settings, seed=seed, out=folder, observers=observers, progress=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Small and large runs of seeds 0 to 2."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        fit(folder / f"s{seed}", seed=seed)
        fit(folder / f"l{seed}", seed=seed, batch=96)
    return folder


def test_a_run_is_read_as_it_was_trained(runs):
    trained, stored = fit(runs / "s0"), read_run(runs / "s0")
    record = stored.record
    assert (record.task, record.seed, record.status, record.updates) == ("small/task", 0, "finished", trained.updates)
    assert record.metrics == trained.metrics
    assert record.settings == recipe(32, duration="2ep")
    assert record.epochs[-1]["held_out_accuracy"] == trained.metrics["test_accuracy"]
    assert record.steps[-1]["distance"] > 0
    assert stored.checkpoints()[0] == 0
    model = stored.model(task())
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    for name, value in trained.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_rebuilding_a_model_draws_nothing(runs):
    before = torch.random.get_rng_state()
    read_run(runs / "s0").model(task())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_pairs_are_those_of_equal_seed(runs):
    groups = read_groups([runs / "s2", runs / "s0"], [runs / "l0", runs / "l1"])
    assert [(a.path.name, b.path.name) for a, b in groups.pairs()] == [("s0", "l0")]
    assert len(groups.finished) == 4


def test_the_rows_of_a_curvature_observer_are_found(tmp_path):
    observer = LambdaMax(every=3)
    fit(tmp_path / "x", observers=[observer])
    curvature = read_run(tmp_path / "x").record.curvature
    assert [row["lambda_max"] for row in curvature] == [row["lambda_max"] for row in observer.rows]


def test_a_task_of_ones_own_is_found_by_where_it_was_defined(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from small_tasks import recipe, task\nt = task(name='mine', recipe=recipe(32))\n"
    )
    from largebatch.tasks import find

    monkeypatch.chdir(tmp_path)
    fit(tmp_path / "x", what=find("mine.py:t"))
    assert isinstance(find_task(read_run(tmp_path / "x")), Task)
    (tmp_path / "mine.py").unlink()
    with pytest.raises(ValueError, match=r"cannot find the task it was trained on: .*mine.py.*--task my_task.py:task"):
        find_task(read_run(tmp_path / "x"))


@pytest.mark.parametrize("place", ["elsewhere", "here/x"])
def test_a_run_folder_cannot_name_code_to_run(tmp_path, monkeypatch, place):
    """Neither outside the working directory nor inside the folder itself, which may have come by mail."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ran = tmp_path / place / "mine.py"
    fit(tmp_path / "here" / "x", what=task(origin=f"{ran}:t"))
    ran.parent.mkdir(exist_ok=True)
    ran.write_text("raise SystemExit('code of a stranger')\n")
    with pytest.raises(ValueError, match=r"would run that file: if you trust it, say so with --task .*mine.py:t"):
        find_task(read_run(tmp_path / "here" / "x"))


def test_an_unfinished_run_is_left_out_and_named(runs, tmp_path):
    shutil.copytree(runs / "l2", tmp_path / "cut")
    (tmp_path / "cut" / "result.json").unlink()
    groups = read_groups([runs / "s0"], [runs / "l0", tmp_path / "cut"])
    assert [run.path.name for run in groups.large] == ["l0"]
    assert groups.notes == (f"{tmp_path / 'cut'}: left out, it has not ended; the same train command continues it",)
    with pytest.raises(
        ValueError, match=r"large: expected at least one run that has ended, .*got none\n.*cut: left out"
    ):
        read_groups([runs / "s0"], [tmp_path / "cut"])


def test_a_diverged_run_is_read_and_has_no_weights_to_measure(runs, tmp_path):
    fit(tmp_path / "lost", batch=96, lr=1e30)
    groups = read_groups([runs / "s0"], [tmp_path / "lost"])
    assert groups.large[0].record.status == "diverged"
    assert groups.finished == [groups.small[0]]
    assert groups.pairs() == []


def test_what_is_no_run_folder_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"expected a run folder, as `largebatch train` or .*found no recipe.json"):
        read_run(tmp_path)


def test_a_run_without_a_good_checkpoint_says_so(runs, tmp_path):
    shutil.copytree(runs / "s0", tmp_path / "s0")
    for file in (tmp_path / "s0" / "checkpoints").glob("*/model.safetensors"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected a checkpoint, but .*SHA-256.*: train this run again"):
        read_run(tmp_path / "s0").state()
    shutil.rmtree(tmp_path / "s0" / "checkpoints")
    with pytest.raises(ValueError, match="expected a checkpoint, but there is none: train this run again"):
        read_run(tmp_path / "s0").state()


def test_several_mistakes_are_told_together(runs, tmp_path):
    fit(tmp_path / "other", batch=64, seed=1)
    with pytest.raises(ValueError, match="runs that cannot be compared") as caught:
        read_groups([runs / "l0", runs / "l0"], [runs / "s0", tmp_path / "other"])
    message = str(caught.value)
    assert "small: seed 0 counts once, got" in message
    assert "large: expected runs that differ in the seed alone, but" in message
    assert "expected the larger batch behind --against, got 32 there and 96 before it: swap them" in message


def test_runs_of_different_tasks_are_refused(runs, tmp_path):
    fit(tmp_path / "x", batch=96, what=task(name="another"))
    with pytest.raises(ValueError, match=r"expected runs of one task, got small/task .* and another"):
        read_groups([runs / "s0"], [tmp_path / "x"])


def test_runs_of_different_models_are_refused(runs, tmp_path):
    from small_tasks import without_bias

    fit(tmp_path / "x", batch=96, what=task(without_bias))
    with pytest.raises(
        ValueError, match="expected equal initial weights from seed 0, they differ: these are runs of diff"
    ):
        read_groups([runs / "s0"], [tmp_path / "x"])
    with pytest.raises(ValueError, match=r"expected weights of the model of task small/task, but .*--task"):
        read_run(runs / "s0").model(task(without_bias))


def test_recipe_json_says_where_the_task_is(tmp_path):
    fit(tmp_path / "x", what=task(origin="/somewhere/mine.py:t"))
    assert json.loads((tmp_path / "x" / "recipe.json").read_text())["origin"] == "/somewhere/mine.py:t"
    assert read_run(tmp_path / "x").finds_task == "/somewhere/mine.py:t"
