"""`largebatch diagnose`: from two trainings to a verdict, one clear message for each mistake."""

import json

import pytest

from largebatch.cli import main
from test_cli import TASK_FILE


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Three seeds each of batch 32 and of batch 256, trained from the command line."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "my_task.py").write_text(TASK_FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed in ("0", "1", "2"):
            for batch in ("32", "256"):
                words = ["train", "my_task.py:task", "--batch", batch, "--rule", "none", "--seed", seed]
                assert main([*words, "--out", f"runs/{batch}-{seed}", "--json"]) == 0
    return folder


@pytest.fixture
def here(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    capsys.readouterr()
    return home


SMALL, LARGE = ([f"runs/{batch}-{seed}" for seed in range(3)] for batch in (32, 256))
FAST = ["--samples", "64", "--quick"]


def test_a_verdict_is_printed_and_its_evidence_kept(here, capsys):
    assert main(["diagnose", *SMALL, "--against", *LARGE, *FAST]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("mine, batch 32 against 256\n")
    assert "it stays near its start" in out
    assert "measurements to make: about" in err
    kept = here / "diagnosis" / "mine-32-against-256"
    assert {file.name for file in kept.iterdir()} == {"runs.json", "measurements.json", "verdicts.json", "lock"}
    assert main(["diagnose", *SMALL, "--against", *LARGE, *FAST]) == 0
    again = capsys.readouterr()
    assert again.out == out
    assert again.err == "everything is measured already: judging anew\n"


def test_json_has_the_fields_that_are_promised(here, capsys):
    assert main(["diagnose", *SMALL, "--against", *LARGE, *FAST, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for row in found["hypotheses"]:
        assert set(row) >= {"name", "verdict", "effect", "low", "high", "n", "evidence", "advice"}
    for row in found["measurements"]:
        assert set(row) >= {"name", "run", "value", "stderr", "passes", "seconds"}
    assert found["hypotheses"][2]["name"] == "near_start"


def test_a_dry_run_tells_the_cost_and_writes_nothing(here, capsys):
    assert main(["diagnose", *SMALL, "--against", *LARGE, "--dry-run", "--out", "y"]) == 0
    assert "measurements to make: about" in capsys.readouterr().out
    assert main(["diagnose", *SMALL, "--against", *LARGE, "--dry-run", "--out", "y", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passes"] > 0
    assert not (here / "y").exists()


def test_sharpness_is_shown_side_by_side(here, capsys):
    words = ["diagnose", "sharpness", SMALL[0], LARGE[0], "--samples", "64"]
    assert main([*words, "--kind", "metric_2_1_ascent", "adaptive_linf", "--batch-norm", "batch"]) == 0
    out, err = capsys.readouterr()
    assert SMALL[0] in out
    assert "batch-norm statistics: batch" in out
    assert "passes" in err
    assert main([*words, "--all", "--dry-run"]) == 0
    assert "passes" in capsys.readouterr().out
    assert main([*words, "--kind", "adaptive_linf", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [row["run"] for row in rows] == [SMALL[0], LARGE[0]]
    assert rows[0]["measurements"][0]["name"] == "adaptive_linf"
    assert main([*words, "--all", "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["kinds"]) > 5


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([*SMALL], "large: expected at least one run that has ended"),
        ([*SMALL, "--against", "nowhere"], "nowhere: expected a run folder"),
        ([*LARGE, "--against", *SMALL], "swap them"),
        ([*SMALL, "--against", *LARGE, "--samples", "0"], "samples: expected at least 1"),
        ([*SMALL, "--against", *LARGE, "--task", "digit/mlp"], "did you mean"),
        (["sharpness", SMALL[0], "--kind", "metric_21"], "did you mean 'metric_2_1'?"),
    ],
)
def test_mistakes_are_named(here, capsys, words, part):
    assert main(["diagnose", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert part in err
