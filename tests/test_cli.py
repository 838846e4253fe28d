"""The command line: exit codes, one clear message for each mistake, nothing half written."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import largebatch
from largebatch.cli import main

TASK_FILE = """
import torch
from torch import nn
from largebatch.core import Task, cross_entropy, accuracy
from largebatch.recipe import Recipe

def data(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=g)
    return x, (x[:, :3].argmax(1))

def network():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))

options = dict(model=network, train=data(512, 0), test=data(100, 1), metrics={"accuracy": accuracy},
               recipe=Recipe(32, lr=0.1, ghost_batch_size=16, duration="6ep"))
task = Task("mine", loss=cross_entropy, **options)
scalar = Task("scalar", loss=lambda outputs, targets: cross_entropy(outputs, targets).mean(), **options)
bare = Task("bare", network, data(64, 0), data(10, 1), cross_entropy)

def broken():
    raise RuntimeError("the user's own mistake")
crash = Task("crash", loss=cross_entropy, **(options | {"model": broken}))
number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_task.py").write_text(TASK_FILE)
    (tmp_path / "bad_import.py").write_text("import no_such_module\n")
    return tmp_path


def fails(capsys, *words):
    """The message of a call that must exit with 2 and write nothing."""
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert not os.path.exists("runs")
    assert err.startswith("error: ")
    assert "Traceback" not in err
    return err


def test_help_names_every_verb_and_is_quick():
    seconds = []  # of processor time, which is the wall's on an idle machine: others' work is no failure
    for _ in range(5):
        begun = os.times()
        done = subprocess.run(
            [sys.executable, "-m", "largebatch", "--help"], capture_output=True, text=True, check=True
        )
        ended = os.times()
        seconds.append(ended.children_user + ended.children_system - begun.children_user - begun.children_system)
    assert all(verb in done.stdout for verb in ("demo", "train", "diagnose", "tasks"))
    assert min(seconds) < 0.3


def test_version_and_unknown_verbs(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{largebatch.__version__}\n"
    assert main(["trian"]) == 2
    said = capsys.readouterr().err
    assert "verb: expected one of demo, train, " in said
    assert "got 'trian'; see largebatch --help" in said


def test_a_run_prints_its_result_as_json_and_its_changes_beside_it(here, capsys):
    assert main(["train", "my_task.py:task", "--batch", "128", "--json", "--out", "runs/x"]) == 0
    out, err = capsys.readouterr()
    run = json.loads(out)
    assert set(run) >= {
        "task", "recipe", "seed", "status", "reason", "updates", "samples", "seconds", "samples_per_second",
        "metrics", "folder",
    }  # fmt: skip
    assert set(run["metrics"]) == {"train_loss", "train_accuracy", "test_loss", "test_accuracy"}
    assert (run["status"], run["updates"], run["samples"], run["folder"]) == ("finished", 24, 6 * 512, "runs/x")
    assert "lr: 0.1 → 0.4" in err
    assert "Goyal et al. 2017" in err
    assert "4 updates per epoch" in err
    # Once more: the result is read, not made again.
    assert main(["train", "my_task.py:task", "--batch", "128", "--json", "--out", "runs/x"]) == 0
    assert json.loads(capsys.readouterr().out) == run


def test_the_default_folder_carries_the_identity(here, capsys):
    assert main(["train", "my_task.py:task", "--set", "duration=1ep"]) == 0
    assert re.search(r"folder +runs/mine-[0-9a-f]{12}", capsys.readouterr().out)
    assert main(["train", "my_task.py:task", "--set", "duration=1ep", "--seed", "1"]) == 0
    assert len(list((here / "runs").iterdir())) == 2


def test_set_applies_last_and_to_that_field_only(here, capsys):
    words = ["train", "my_task.py:task", "--batch", "128", "--set", "recipe.lr=0.2", "--set", "duration=2ep"]
    assert main([*words, "--json", "--dry-run"]) == 0
    preview = json.loads(capsys.readouterr().out)
    assert preview["total_updates"] == 8
    assert {change["field"] for change in preview["changes"]} >= {"lr", "warmup", "global_batch_size"}
    assert not (here / "runs").exists()


def test_a_dry_run_tells_everything_beforehand_and_writes_nothing(here, capsys):
    assert main(["train", "my_task.py:task", "--batch", "256", "--workers", "2", "--dry-run"]) == 0
    text = capsys.readouterr().out
    for part in (
        "2 per epoch, 12 in all",
        "memory",
        "time",
        "lr: 0.1 → 0.8",
        "warning: 2 updates per epoch is outside the evidence",
    ):
        assert part in text
    assert not (here / "runs").exists()


def test_tasks_lists_what_is_here(capsys):
    assert main(["tasks"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"digits/mlp .* yes", text)
    assert "imagenet/resnet50" in text
    assert main(["tasks", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert next(row for row in rows if row["name"] == "digits/mlp")["present"] is True


def test_unknown_tasks_get_a_suggestion(here, capsys):
    assert "did you mean" in fails(capsys, "train", "digit/mlp")
    assert "task" in fails(capsys, "train", "my_task.py:tusk")
    assert "number" in fails(capsys, "train", "my_task.py:number")
    assert "missing.py" in fails(capsys, "train", "missing.py:task")
    assert "no_such_module" in fails(capsys, "train", "bad_import.py:task")


def test_missing_data_say_where_they_would_be(here, capsys, monkeypatch):
    monkeypatch.setenv("LARGEBATCH_DATA", str(here / "data"))
    assert "timit.npz" in fails(capsys, "train", "timit/f2")


def test_a_batch_above_the_data_set_is_refused(here, capsys):
    message = fails(capsys, "train", "my_task.py:task", "--batch", "1024")
    assert "1024" in message
    assert "512" in message


def test_a_ghost_above_the_batch_is_refused(here, capsys):
    message = fails(capsys, "train", "my_task.py:task", "--set", "ghost_batch_size=64")
    assert "ghost_batch_size" in message
    assert "32" in message


def test_a_scalar_loss_is_refused_with_the_fix(here, capsys):
    message = fails(capsys, "train", "my_task.py:scalar")
    assert "got a scalar" in message
    assert 'reduction="none"' in message


def test_three_mistakes_are_reported_together(here, capsys):
    sets = ["--set", "lr=-1", "--set", "optimizer=sdg", "--set", "duration=0ep"]
    message = fails(capsys, "train", "my_task.py:task", *sets)
    assert all(word in message for word in ("lr", "optimizer", "duration", "did you mean 'sgd'"))


def test_mistakes_of_different_options_are_reported_together(here, capsys):
    words = ["--batch", "0", "--set", "momentum=3", "--micro-batch-size", "0", "--checkpoint-every", "foo"]
    err = fails(capsys, "train", "my_task.py:task", *words)
    for part in ("batch", "momentum", "micro_batch_size: expected at least 1", "checkpoint_every: "):
        assert part in err


def test_a_task_without_a_recipe_is_refused(here, capsys):
    assert "brings no recipe" in fails(capsys, "train", "my_task.py:bare")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--workers", "0"], "workers: expected at least 1"),
        (["--device", "gpu"], "device: cannot use 'gpu'"),
        (["--micro-batch-size", "0"], "micro_batch_size: expected at least 1"),
        (["--loader-workers", "-1"], "loader_workers: expected 0 or more"),
        (["--checkpoint-every", "often"], "often"),
    ],
)
def test_bad_options_are_named(here, capsys, words, part):
    assert part in fails(capsys, "train", "my_task.py:task", *words)


def test_another_runs_folder_is_refused(here, capsys):
    assert main(["train", "my_task.py:task", "--set", "duration=1ep", "--out", "x"]) == 0
    capsys.readouterr()
    assert main(["train", "my_task.py:task", "--set", "duration=2ep", "--out", "x"]) == 2
    assert "holds run" in capsys.readouterr().err


def test_a_mistake_in_the_users_own_code_keeps_its_traceback(here):
    with pytest.raises(RuntimeError, match="the user's own mistake"):
        main(["train", "my_task.py:crash"])


def test_a_diverged_run_exits_with_1(here, capsys):
    assert main(["train", "my_task.py:task", "--set", "lr=1e30", "--set", "schedule=constant", "--json"]) == 1
    run = json.loads(capsys.readouterr().out)
    assert run["status"] == "diverged"
    assert "diverged at step" in run["reason"]


def command(*words):
    return [sys.executable, "-m", "largebatch", "train", "my_task.py:task", *words]


def wait_for_checkpoints(folder, count, process):
    deadline = time.monotonic() + 60
    while len([path for path in folder.glob("checkpoints/*") if path.name.isdigit()]) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_sigterm_of_a_single_process_exits_with_143(here):
    words = command("--set", "duration=400ep", "--out", "x", "--json")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_checkpoints(here / "x", 2, process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert json.loads(out)["status"] == "stopped"
    assert "SIGTERM" in json.loads(out)["reason"]


def test_two_workers_train_what_one_does(here, capsys):
    options = ["--batch", "100", "--set", "precision=fp64", "--set", "duration=4ep", "--json"]
    assert main(["train", "my_task.py:task", *options, "--out", "a"]) == 0
    one = json.loads(capsys.readouterr().out)["metrics"]
    two = subprocess.run(
        command(*options, "--out", "b", "--workers", "2"),
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert json.loads(two.stdout)["metrics"] == pytest.approx(one, rel=1e-9)
    assert json.loads((here / "b" / "environment.json").read_text())["workers"] == 2


def test_mistakes_of_workers_are_said_once_and_exit_with_2(here):
    done = subprocess.run(command("--workers", "2", "--batch", "1024"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert not (here / "runs").exists()


def test_a_folder_that_cannot_be_made_is_one_message(here, capsys):
    (here / "taken").write_text("a file")
    assert main(["train", "my_task.py:task", "--out", "taken/run"]) == 2
    err = capsys.readouterr().err
    assert "error: " in err
    assert "taken" in err
    assert "Traceback" not in err


def test_the_worker_that_failed_is_heard(here):
    """Rank 0 sees only a lost connection; the cause is what rank 1 said."""
    (here / "uneven.py").write_text(
        TASK_FILE
        + """
import os

def uneven():
    if os.environ.get("RANK") == "1":
        raise RuntimeError("only this worker has no data")
    return network()
task = Task("uneven", loss=cross_entropy, **(options | {"model": uneven}))
"""
    )
    words = [sys.executable, "-m", "largebatch", "train", "uneven.py:task", "--workers", "2"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert "only this worker has no data" in done.stderr
    assert "error: worker 1 of 2 ended with exit code 1" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_run_of_two_workers_that_is_ended_leaves_nothing_behind_and_is_continued(here, number, code):
    words = command("--workers", "2", "--set", "duration=20ep", "--checkpoint-every", "20steps", "--out", "x", "--json")
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    wait_for_checkpoints(here / "x", 2, process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == code
    if number != signal.SIGKILL:
        assert json.loads(out)["status"] == "stopped"
    assert not (here / "x" / "result.json").exists()
    done = subprocess.run(words, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert json.loads(done.stdout)["updates"] == 20 * 16
    log = [json.loads(line) for line in (here / "x" / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log if row["kind"] == "epoch"] == list(range(20))


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["tasks"]])
def test_a_reader_that_leaves_early_is_no_error(words):
    command = [sys.executable, "-m", "largebatch", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 141)


def test_a_broken_pipe_of_the_users_own_is_told(tmp_path):
    (tmp_path / "mine.py").write_text(TASK_FILE.replace('RuntimeError("the user', 'BrokenPipeError("the user'))
    words = [sys.executable, "-m", "largebatch", "train", "mine.py:crash", "--out", "a"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "BrokenPipeError: the user's own mistake" in done.stderr


def test_output_may_be_closed():
    assert subprocess.run(f"{sys.executable} -m largebatch --version >&-", shell=True, check=False).returncode == 0
