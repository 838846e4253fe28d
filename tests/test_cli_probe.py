"""`largebatch probe`: the cost first, then the routes, cheapest first; one message for each mistake."""

import json

import pytest

from largebatch.cli import main
from test_cli import TASK_FILE


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    (folder / "my_task.py").write_text(TASK_FILE)
    return folder


@pytest.fixture
def here(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    return home


FAST = ["my_task.py:task", "--samples", "1280", "--batches", "16", "32", "64", "128"]


def test_the_noise_scale_is_measured_and_doubted(here, capsys):
    assert main(["probe", *FAST, "--out", "noise", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert {"noise_scale", "low", "high", "gradient_squared_norm", "noise_trace", "critical"} <= set(found)
    assert [row["route"] for row in found["critical"]] == ["noise scale"]
    assert found["critical"][0]["cost_samples"] > 3 * 1280  # the rate is tuned
    assert found["noise_trace"] > 0
    assert found["noise"]["looks"] == 20
    assert "what each route costs" in err
    assert "check it by branches (--critical)" in found["warnings"][0]


def test_all_routes_are_taken_once_and_continued(here, capsys):
    words = ["probe", *FAST, "--sweep", "--target", "0.6", "--out", "all"]
    assert main(words) == 0
    first = capsys.readouterr().out
    for part in ("noise scale", "branches", "sweep", "by Merrill et al.'s rule", "tr Σ", "looks"):
        assert part in first
    log = (here / "all" / "sweep" / "log.jsonl").read_text()
    assert main([*words, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (here / "all" / "sweep" / "log.jsonl").read_text() == log
    assert [row["route"] for row in again["critical"]] == ["noise scale", "branches", "sweep"]
    assert {file.name for file in (here / "all").iterdir()} == {
        "rate.json",
        "trunk",
        "branches.json",
        "sweep",
        "probe.json",
    }


def test_the_cost_is_told_before_anything_starts(here, capsys):
    assert main(["probe", *FAST, "--sweep", "--dry-run", "--json", "--out", "no"]) == 0
    routes = json.loads(capsys.readouterr().out)["routes"]
    assert [row["route"] for row in routes] == ["noise scale", "branches", "sweep"]
    assert routes[0]["samples"] < routes[1]["samples"] < routes[2]["samples"]
    assert main(["probe", *FAST, "--critical", "--dry-run", "--out", "no"]) == 0
    assert "samples, at most" in capsys.readouterr().out
    assert not (here / "no").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["my_task.py:task", "--samples", "64"], "samples: expected 20 updates or more, 640, got 64"),
        (
            ["my_task.py:task", "--critical", "--batches", "16", "32"],
            "batch_sizes: expected three or more, got [16, 32]",
        ),
        (["my_task.py:bare"], "brings no recipe; give it one"),
        (["digit/mlp"], "did you mean 'digits/mlp'?"),
    ],
)
def test_mistakes_are_named(here, capsys, words, part):
    assert main(["probe", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert part in err
