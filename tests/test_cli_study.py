"""The verb `study`: a design of one's own, its cost beforehand, one message for each mistake."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from largebatch.cli import main

STUDY = """
import sys
sys.path.insert(0, {tests!r})
import designs

def study():
    return designs.two_cells({task!r}, seeds=(0, 1, 2))

broken = 1 / {zero}
number = 3
"""
TESTS = str(Path(__file__).parent / "study")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(TESTS)
    import designs

    task = f"{designs.write_task(tmp_path)}:stacked"
    (tmp_path / "my_study.py").write_text(STUDY.format(tests=TESTS, task=task, zero=1))
    (tmp_path / "bad_study.py").write_text(STUDY.format(tests=TESTS, task=task, zero=0))
    return tmp_path


@pytest.fixture
def no_processes(monkeypatch):
    """Workers are threads: what is tested is what the command says. test_runner.py starts it with real ones."""
    monkeypatch.setattr("largebatch.study._runner.local_pool", lambda workers, _: lambda: ThreadPoolExecutor(workers))


def fails(capsys, *words):
    assert main(["study", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert not Path("studies").exists()
    return err


def test_a_study_of_ones_own_prints_its_answer_and_json(here, capsys, no_processes):
    words = ["study", "my_study.py:study", "--out", "a", "--workers", "1", "--no-report"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "gap: test accuracy, small − large" in out
    assert "folder: a" in out
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["complete"] is True
    assert [row["status"] for row in found["runs"]] == ["finished"] * 6
    assert found["folder"] == "a"
    assert found["command"].startswith("largebatch study my_study.py:study")
    assert main([*words, "--seeds", "4", "--dry-run"]) == 0
    assert "2 cells × 4 seed(s) = 8 runs, of which 6 are there; the others take about" in capsys.readouterr().out
    assert main([*words, "--seeds", "4", "--dry-run", "--tune", "lr"]) == 0
    captured = capsys.readouterr()
    assert "2 cells × 4 seed(s) = 8 runs, about" in captured.out
    assert "--tune: the cells as they stand, without the grid of rates" in captured.err


def test_a_dry_run_tells_cells_cost_and_hours_and_writes_nothing(here, capsys):
    assert main(["study", "my_study.py:study", "--dry-run", "--seeds", "4"]) == 0
    out = capsys.readouterr().out
    assert "2 cells × 4 seed(s) = 8 runs, about" in out
    assert "hours" in out
    assert main(["study", "open-question", "--large", "512", "--dry-run", "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)
    assert len(cost["cells"]) == 31
    assert cost["hours"] > 0
    assert {path.name for path in here.iterdir()} <= {"my_study.py", "bad_study.py", "my_task.py", "__pycache__"}


def test_the_quick_open_question_is_what_the_demo_promises(capsys):
    from largebatch.study import Subject, open_question

    study = open_question(Subject("digits/mlp"), large=512, whole_updates=300, quick=True)
    assert len(study.cells) <= 12
    assert len(study.seeds) == 5
    assert sum("sharpness" in cell.measures for cell in study.cells) == 3
    assert sum(contrast.primary for contrast in study.contrasts) == 5
    whole = [cell for cell in study.cells if cell.recipe.global_batch_size == 1437]
    assert [str(cell.recipe.duration) for cell in whole] == ["300steps"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["open-answer"], ["expected one of open-question, warm-start", "got 'open-answer'"]),
        (["nowhere.py:study"], ["found no Python file nowhere.py"]),
        (["bad_study.py:study"], ["bad_study.py, line", "ZeroDivisionError"]),
        (["my_study.py:number"], ["expected a Study", "got int"]),
        (
            ["my_study.py:study", "--task", "digits/mlp", "--quick"],
            ["task, quick: my_study.py:study is a design of its own"],
        ),
        (["open-question", "--seeds", "0"], ["seeds: expected at least 1, and 3 to compare, got 0"]),
        (["open-question", "--large", "8"], ["large: expected more than the small batch of 16", "got 8"]),
        (["open-question", "--task", "digits/mpl"], ["did you mean 'digits/mlp'"]),
        (["open-question", "--executor", "slurm://x"], ["expected dask://host:port"]),
    ],
)
def test_mistakes_are_one_message(here, capsys, words, parts):
    message = fails(capsys, *words)
    for part in parts:
        assert part in message


def test_a_task_without_a_recipe_says_what_to_add(here, capsys):
    bare = 'bare = Task("bare", stackable, train=data(64, 0), test=data(10, 1), loss=cross_entropy)\n'
    (here / "bare_task.py").write_text((here / "my_task.py").read_text() + bare)
    assert "brings no recipe" in fails(capsys, "warm-start", "--task", "bare_task.py:bare")


def test_the_report_is_made_and_named(here, capsys, no_processes):
    assert main(["study", "my_study.py:study", "--out", "a", "--workers", "1", "--seeds", "1"]) == 0
    page = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("report: "))
    assert page.suffix == ".html"
    assert "small" in page.read_text()
