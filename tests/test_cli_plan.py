"""`largebatch plan`: from numbers, from a run folder, from the paper; one message for each thing that is missing."""

import json
import shutil
import xml.etree.ElementTree as ET

import pytest

from largebatch import plan
from largebatch.cli import main
from test_cli import TASK_FILE

NUMBERS = ["--samples", "1e6", "9e5", "1.1e6", "--seconds-per-sample", "1e-3", "--local-batch", "32"]
CRITICAL = ["--critical-batch", "2000", "1500", "2800"]


def printed(capsys, *words):
    assert main(["plan", *words]) == 0
    return capsys.readouterr().out


def rows_of(capsys, *words):
    return json.loads(printed(capsys, *words, "--json"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of five epochs, trained from the command line."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "my_task.py").write_text(TASK_FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "my_task.py:task", "--out", "run", "--json"]) == 0
    return folder / "run"


def test_the_hour_of_goyal_et_al(capsys):
    found = rows_of(capsys, "goyal")
    assert [row["workers"] for row in found["rows"]] == [8, 16, 32, 64, 128, 256]
    assert found["rows"][-1]["global_batch_size"] == 8192
    text = printed(capsys, "goyal")
    assert "published: about 90 %, and an hour on 256" in text
    assert "nothing hides behind the backward pass" in text
    assert [row["workers"] for row in rows_of(capsys, "goyal", "--workers", "8,352")["rows"]] == [8, 352]


def test_numbers_become_the_plan_that_python_makes(capsys):
    words = [*NUMBERS, *CRITICAL, "--fixed-seconds", "0.002", "--bandwidth-gbit", "8", "--latency-us", "100",
             "--gradient-mb", "40", "--workers", "1..512", "--price", "2.5"]  # fmt: skip
    found = rows_of(capsys, *words)
    wanted = "workers global_batch_size step_seconds efficiency samples_to_target hours worker_hours price"
    assert set(wanted.split()) <= set(found["rows"][0])
    step = plan.StepTime(1e-3, 0.002, plan.Network(plan.Link(1e9, 1e-4)), 4e7)
    from largebatch.target import Hyperbola

    curve = Hyperbola.known((1e6, 9e5, 1.1e6), (2000, 1500, 2800))
    same = plan.estimate(curve, step, plan.doublings(1, 512), local_batch_size=32, price_per_worker_hour=2.5)
    assert found["stop_at"] == same.stop_at
    assert found["rows"][5]["price"] == pytest.approx(same.rows[5].price)
    assert {row["workers"] for row in found["rows"] if row["best"]} == {row.workers for row in same.front}


def test_servers_overlap_and_stragglers_reach_the_model(capsys):
    words = [*NUMBERS, "--bandwidth-gbit", "10", "--gradient-mb", "100", "--workers", "64"]
    plain = rows_of(capsys, *words)["rows"][0]["step_seconds"]
    servers = rows_of(capsys, *words, "--workers-per-server", "8", "--server-gbit", "160")["rows"][0]["step_seconds"]
    tree = rows_of(capsys, *words, "--algorithm", "tree")["rows"][0]["step_seconds"]
    hidden = rows_of(capsys, *words, "--overlap", "0.6")["rows"][0]["step_seconds"]
    late = rows_of(capsys, *words, "--jitter", "0.1")["rows"][0]["step_seconds"]
    joined = rows_of(capsys, *words, "--joining-seconds", "0.004")["rows"][0]["step_seconds"]
    assert joined == pytest.approx(plain + 0.004)
    assert len({plain, servers, tree, hidden, late}) == 5
    assert hidden < plain < min(tree, late)


def test_a_run_folder_gives_step_samples_and_gradients(run, capsys):
    text = printed(capsys, str(run), *CRITICAL, "--bandwidth-gbit", "1", "--workers", "1..4")
    assert "the run's 3072 samples at batch 32 are what the target takes there" in text
    assert "each worker takes the 32 samples of an update" in text
    cost = plan.read_run_cost(run)
    assert (cost.task, cost.global_batch_size, cost.workers, cost.samples) == ("mine", 32, 1, 3072)
    # 6·16 + 16 of the first layer, 2·16 of the norm, 16·3 + 3 of the last; no running statistics.
    assert cost.gradient_bytes == 4 * (96 + 16 + 32 + 48 + 3)
    found = rows_of(capsys, str(run), *CRITICAL, "--workers", "1")
    assert found["rows"][0]["step_seconds"] == pytest.approx(cost.step_seconds.value)
    assert found["rows"][0]["samples_to_target"] == pytest.approx(3072)
    fixed = rows_of(capsys, str(run), "--workers", "1,8")
    assert fixed["rows"][1]["samples_to_target"] == pytest.approx(3072)
    assert any("the same samples at every batch (assumed)" in note for note in fixed["notes"])
    shutil.copytree(run, run.parent / "bare", ignore=shutil.ignore_patterns("checkpoints"))
    assert (
        plan.read_run_cost(run.parent / "bare").gradient_bytes != plan.read_run_cost(run.parent / "bare").gradient_bytes
    )


def test_the_front_is_drawn(tmp_path, capsys):
    file = tmp_path / "front.svg"
    words = [*NUMBERS, *CRITICAL, "--bandwidth-gbit", "10", "--gradient-mb", "100", "--workers", "1..64"]
    printed(capsys, *words, "--picture", str(file))
    drawing = ET.parse(file).getroot()
    texts = {element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert {"1", "8", "16", "32", "64", "hours to the target", "worker-hours", "not beaten", "beaten in both"} <= texts
    printed(capsys, *words, "--picture", str(file), "--price", "3")
    assert ">price<" in file.read_text()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "--samples: expected the samples to the target at a small batch, got none; give them, or a run"),
        (
            ["--samples", "1e6"],
            "--seconds-per-sample: expected the time of a sample on one worker, got none; give it, a",
        ),
        ([*NUMBERS, "--critical-batch", "2000"], "critical_batch_size: expected a value with its interval"),
        ([*NUMBERS, "--bandwidth-gbit", "0", "--gradient-mb", "1"], "bytes_per_second: expected a bandwidth, above 0"),
        ([*NUMBERS, "--bandwidth-gbit", "1"], "gradient_bytes: expected the bytes that are all-reduced"),
        (
            [*NUMBERS, "--budget", "100"],
            "price_per_worker_hour: expected a price, since there is a budget of 100, got none",
        ),
        ([*NUMBERS, "--workers", "4..1"], "--workers: expected 1..4096 or 1,2,6, got '4..1'"),
        ([*NUMBERS, "--workers", "many"], "--workers: expected 1..4096 or 1,2,6, got 'many'"),
        ([*NUMBERS, "--picture", "front.png"], "--picture: expected a file that ends in .svg, got front.png"),
        (["a", "b"], "source: expected one, got a b; plan them one by one"),
        (["nowhere"], "nowhere: expected a run folder of `largebatch train`, got no recipe.json there"),
        (["--measure", "--samples", "1e6"], "--measure: expected a task to measure, got none"),
    ],
)
def test_what_is_missing_is_named_in_one_message(words, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert part in err
    assert not list(tmp_path.iterdir())


def test_a_run_without_timing_or_end_is_refused(run, tmp_path, capsys):
    quick = tmp_path / "quick"
    shutil.copytree(run, quick)
    rows = (quick / "log.jsonl").read_text().splitlines()
    (quick / "log.jsonl").write_text("\n".join(row for row in rows if '"kind": "epoch"' not in row) + "\n")
    assert main(["plan", str(quick)]) == 2
    assert f'{quick}: log: expected two rows or more with "seconds" and "updates"' in capsys.readouterr().err
    (quick / "result.json").unlink()
    assert main(["plan", str(quick)]) == 2
    assert (
        "expected a finished run, got one that has not ended; finish it, or give the numbers" in capsys.readouterr().err
    )
