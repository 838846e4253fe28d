"""From run folders to a verdict: planted causes are found, work done is not done again, verdicts are redone from files."""

import json
import math

import pytest
import torch
from torch import nn

from largebatch import diagnose, train
from largebatch.core import accuracy, cross_entropy, read_checkpoint, write_checkpoint
from largebatch.diagnose._explain import Inquiry
from largebatch.diagnose._measure import Plan
from largebatch.diagnose._sharpness_table import SharpnessTable, Survey
from largebatch.results import RunFolder
from small_tasks import recipe, task

SMALL = recipe(16, lr=0.05, duration="8ep", weight_decay=0.0)
NOTHING_CHANGED = SMALL.at(192, rule="none")


def fit(folder, settings, seeds=3, what=None):
    return [
        train.fit(what or task(), settings, seed=seed, out=folder / str(seed), progress=False) for seed in range(seeds)
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds of batch 16 and of batch 192, equal epochs, at the same rate."""
    folder = tmp_path_factory.mktemp("runs")
    fit(folder / "small", SMALL)
    fit(folder / "large", NOTHING_CHANGED)
    return folder


def folders(path):
    return sorted(path.iterdir())


def verdicts(found):
    return {v.name: v.verdict for v in found.hypotheses}


@pytest.fixture(scope="module")
def diagnosed(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "{task}-{small}-{large}"
    return diagnose.explain_gap(folders(runs / "small"), folders(runs / "large"), out=out, task=task(), samples=128)


def test_a_large_batch_at_the_same_rate_and_equal_epochs_stays_near_its_start(diagnosed):
    said = verdicts(diagnosed)
    assert said["near_start"] == "supported"
    near = next(v for v in diagnosed.hypotheses if v.name == "near_start")
    assert near.low > 1.5


def test_the_text_gives_the_answer_before_the_table(diagnosed):
    lines = diagnosed.text().splitlines()
    assert lines[0] == "small/task, batch 16 against 192"
    assert lines[1] == diagnosed.sentence()
    assert any(line.startswith("it stays near its start") and "supported" in line for line in lines)
    assert lines[-1] == f"evidence: {diagnosed.folder}"


def test_every_number_has_its_mode_cost_and_samples(diagnosed):
    found = {(row.name, row.batch_norm) for row in diagnosed.measurements}
    for name in (
        "lambda_max",
        "lambda_min",
        "gradient_norm",
        "metric_2_1",
        "metric_2_1(epsilon=0.0005)",
        "adaptive_linf",
    ):
        assert {(name, "running"), (name, "batch")} <= found
    assert {("test_accuracy", "running"), ("test_accuracy", "reestimated")} <= found
    assert {row.samples for row in diagnosed.measurements if row.name == "lambda_max"} == {128}
    assert all(row.seconds > 0 and row.passes > 0 for row in diagnosed.measurements)
    assert {"line", "curve"} == set(diagnosed.paths)
    assert len(diagnosed.paths["line"].alphas) == 25


def test_measured_errors_are_those_that_training_recorded(diagnosed, runs):
    for path in folders(runs / "small"):
        recorded = RunFolder(path).read("result.json")["metrics"]
        for row in diagnosed.measurements:
            if row.run == str(path) and row.batch_norm == "running" and row.name in recorded:
                assert row.value == pytest.approx(recorded[row.name], rel=1e-9)


def test_a_second_call_measures_nothing_and_says_the_same(diagnosed, runs, monkeypatch):
    monkeypatch.setattr("largebatch.diagnose._measure.sharpness", None)
    monkeypatch.setattr("largebatch.diagnose._joining.path", None)
    inquiry = Inquiry(
        folders(runs / "small"), folders(runs / "large"), out=diagnosed.folder, task=task(), plan=Plan(128)
    )
    assert inquiry.cost().passes == 0
    assert inquiry.cost().text() == "everything is measured already: judging anew\n"
    assert inquiry.run() == diagnosed


def test_a_verdict_is_redone_from_the_files_alone(diagnosed):
    again = diagnose.redo(diagnosed.folder)
    assert again == diagnosed
    assert diagnose.Diagnosis.from_json(diagnosed.to_json()) == diagnosed
    kept = json.loads((RunFolder(diagnosed.folder).path / "verdicts.json").read_text())
    assert kept["answer"] == diagnosed.sentence()
    assert [row["name"] for row in kept["hypotheses"]] == [v.name for v in diagnosed.hypotheses]


def test_an_interrupted_diagnosis_goes_on_where_it_stopped(runs, tmp_path, monkeypatch):
    real, calls = diagnose._measure.sharpness, []

    def stops(*args, **options):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(args)
        return real(*args, **options)

    ask = [folders(runs / "small")[:1], folders(runs / "large")[:1]]
    options = {"out": tmp_path, "task": task(), "samples": 64, "quick": True}
    monkeypatch.setattr("largebatch.diagnose._measure.sharpness", stops)
    with pytest.raises(KeyboardInterrupt):
        diagnose.explain_gap(*ask, **options)
    held = len(json.loads((tmp_path / "measurements.json").read_text())["measurements"])
    assert held > 3
    monkeypatch.setattr("largebatch.diagnose._measure.sharpness", real)
    before = Inquiry(*ask, out=tmp_path, task=task(), plan=Plan(64, True))
    assert 0 < before.cost().measurements < 8
    assert len(diagnose.explain_gap(*ask, **options).measurements) == held + 1


def test_two_processes_do_not_write_into_one_folder(runs, tmp_path):
    ask = [folders(runs / "small")[:1], folders(runs / "large")[:1]]
    inquiry = Inquiry(*ask, out=tmp_path, task=task(), plan=Plan(64, True))
    diagnose.explain_gap(*ask, out=tmp_path, task=task(), samples=64, quick=True)
    held = (tmp_path / "measurements.json").read_text()
    found = inquiry.run()  # made before the other had measured: takes up what it finds
    assert (tmp_path / "measurements.json").read_text() == held
    assert len(found.measurements) > 10
    with RunFolder(tmp_path).lock(), pytest.raises(RuntimeError, match="holds it; wait for it to end"):
        inquiry.run()


def test_a_cost_is_told_before_anything_is_measured(runs, tmp_path):
    cost = Inquiry(folders(runs / "small"), folders(runs / "large"), out=tmp_path / "x", task=task()).cost()
    assert cost.passes > 100
    assert cost.seconds > 0
    assert cost.memory_bytes > 0
    assert "measurements to make: about" in cost.text()
    assert not (tmp_path / "x").exists()


def test_runs_are_left_as_they_were(diagnosed, runs):
    for path in folders(runs / "small"):
        assert {file.name for file in path.iterdir()} == {
            "recipe.json", "environment.json", "log.jsonl", "checkpoints", "result.json", "lock"
        }  # fmt: skip


def test_spoilt_statistics_are_found(runs, tmp_path):
    """The large batch's running statistics are shifted after training, and its result is measured anew."""
    what = task()
    fit(tmp_path / "spoilt", SMALL.at(32))
    for path in folders(tmp_path / "spoilt"):
        folder = RunFolder(path)
        checkpoints = sorted((p for p in folder.checkpoints.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
        newest = read_checkpoint(checkpoints[-1])
        state = newest.model_state()
        state["1.running_mean"] += 30 * state["1.running_var"].sqrt()  # one class for all
        write_checkpoint(folder.checkpoints, newest.samples, state, newest.training_state())
        model = what.model().double()
        model.load_state_dict(state)
        with torch.no_grad():
            outputs = model.eval()(what.test[0])
        result = folder.read("result.json")
        result["metrics"] |= {
            "test_accuracy": float(accuracy(outputs, what.test[1]).mean()),
            "test_loss": float(cross_entropy(outputs, what.test[1]).mean()),
        }
        folder.write("result.json", result)
    found = diagnose.explain_gap(
        folders(runs / "small"), folders(tmp_path / "spoilt"), task=what, samples=64, quick=True
    )  # fmt: skip
    assert found.gap.low > 0
    assert verdicts(found)["batch_norm_statistics"] == "supported"
    assert verdicts(found)["failed_optimisation"] != "supported"


def test_a_rate_far_too_large_is_a_failed_optimisation(runs, tmp_path):
    fit(tmp_path / "fast", SMALL.at(192, rule="none").replace(lr=1e4))
    found = diagnose.explain_gap(
        folders(runs / "small"), folders(tmp_path / "fast"), task=task(), samples=64, quick=True
    )
    assert verdicts(found)["failed_optimisation"] == "supported"


def test_equal_groups_have_no_gap(runs, tmp_path):
    found = diagnose.explain_gap(
        folders(runs / "small"), fit_twins(tmp_path), task=task(), samples=64, quick=True
    )  # fmt: skip
    assert found.gap.low <= 0 <= found.gap.high
    assert found.sentence().startswith("No gap here: test error large − small is")
    assert "explain nothing" in found.sentence()


def fit_twins(folder):
    """The small batch again, with other seeds."""
    for seed in (3, 4, 5):
        train.fit(task(), SMALL, seed=seed, out=folder / str(seed), progress=False)
    return folders(folder)


def test_one_seed_gives_no_verdict_and_no_crash(runs):
    found = diagnose.explain_gap(
        folders(runs / "small")[:1], folders(runs / "large")[:1], task=task(), samples=64, quick=True
    )  # fmt: skip
    assert set(verdicts(found).values()) == {"undecided"}
    assert "cannot be told (no interval from 1 seed(s): run at least 3)" in found.sentence()
    assert math.isnan(found.gap.low)


def test_a_model_without_batch_norm_has_no_modes(tmp_path):
    def plain():
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

    what = task(plain)
    for name, batch in (("s", 16), ("l", 96)):
        fit(tmp_path / name, SMALL.at(batch, rule="none"), what=what)
    found = diagnose.explain_gap(folders(tmp_path / "s"), folders(tmp_path / "l"), task=what, samples=64)
    assert {row.batch_norm for row in found.measurements} == {"none"}
    assert verdicts(found)["batch_norm_statistics"] == "contradicted"
    assert any(row.name == "linear_rule at the start" for row in found.measurements)
    assert not any("subspace" in row.name for row in found.measurements)  # 92 parameters: it would be the whole space


def test_a_task_that_has_changed_is_refused(runs):
    changed = task(test=(task().test[0] + 1.0, task().test[1]))
    with pytest.raises(ValueError, match=r"expected the test loss that was recorded, .*: the task has changed since"):
        diagnose.explain_gap(folders(runs / "small"), folders(runs / "large"), task=changed, samples=64, quick=True)


def test_bad_samples_and_foreign_folders_are_refused(runs, tmp_path):
    ask = [folders(runs / "small"), folders(runs / "large")]
    with pytest.raises(ValueError, match="samples: expected at least 1, and some thousand for use, got 0"):
        diagnose.explain_gap(*ask, task=task(), samples=0)
    (tmp_path / "measurements.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a diagnosis' measurements; choose another --out"):
        diagnose.explain_gap(*ask, task=task(), out=tmp_path)


def test_sharpness_of_runs_side_by_side(runs):
    paths = [folders(runs / "small")[0], folders(runs / "large")[0]]
    survey = Survey(paths, ["metric_2_1_ascent", "adaptive_linf"], samples=64, batch_norm="batch", task=task())
    assert [cost.name for cost in survey.cost()] == ["metric_2_1_ascent", "adaptive_linf"]
    found = survey.measure()
    text = found.text()
    assert all(str(path) in text for path in paths)
    assert "64 samples, batch-norm statistics: batch, float64" in text
    assert "  adaptive_linf: every rescaling of layers" in text
    assert text.count("  metric_2_1_ascent: a lower bound: the highest of 11 points of the ball\n") == 1
    assert SharpnessTable.from_json(found.to_json()).runs[0].run == str(paths[0])
    with pytest.raises(ValueError, match=r"expected at least one run and one sample, got 0 run\(s\) and 0 samples"):
        Survey([], samples=0)


def test_sharpness_of_an_interrupted_run_is_refused(runs, tmp_path):
    import shutil

    shutil.copytree(folders(runs / "small")[0], tmp_path / "cut")
    (tmp_path / "cut" / "result.json").unlink()
    with pytest.raises(ValueError, match="expected a run that has ended, it was interrupted"):
        Survey([tmp_path / "cut"], task=task())


def test_measuring_does_not_touch_random_numbers(runs):
    before = torch.random.get_rng_state()
    diagnose.explain_gap(
        folders(runs / "small")[:1], folders(runs / "large")[:1], task=task(), samples=64, quick=True
    )  # fmt: skip
    assert torch.equal(torch.random.get_rng_state(), before)
