"""A study gives out what is not done, keeps what comes back, and loses nothing, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import designs
import pytest

from largebatch import train
from largebatch.results import read_json
from largebatch.study import Cell, Subject, read_study, run_study
from largebatch.study import _runner as runner
from largebatch.study._runner import MOST_DEATHS
from largebatch.study._work import RunJob, perform

STUDY_FILE = """
import sys
sys.path.insert(0, {tests!r})
import designs
study = designs.two_cells({task!r})
"""


@pytest.fixture
def task(tmp_path):
    return f"{designs.write_task(tmp_path)}:task"


@pytest.fixture
def here():
    """An executor in this process: what is tested is not the processes."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


def folders(out):
    return {path.name: (path / "result.json").stat().st_mtime_ns for path in (out / "runs").iterdir()}


def test_what_has_ended_is_never_made_again(tmp_path, task, here):
    study = designs.two_cells(task, seeds=(0, 1))
    first = run_study(study, tmp_path / "a", executor=here)
    times = folders(tmp_path / "a")
    assert first.complete
    assert [row.status for row in first.runs] == ["finished"] * 4
    again = run_study(study, tmp_path / "a", executor=here)
    assert again.to_json() == first.to_json() == read_study(tmp_path / "a").to_json()
    assert folders(tmp_path / "a") == times


def test_studies_share_runs(tmp_path, task, here):
    """Another study with the same runs folder trains only what is new, here a third cell and a second seed."""
    runs = tmp_path / "runs"
    run_study(designs.two_cells(task, seeds=(0,)), tmp_path / "a", runs=runs, executor=here)
    before = {path.name for path in runs.iterdir()}
    wider = designs.two_cells(task, seeds=(0, 1))
    wider = replace(wider, name="wider", cells=(*wider.cells, Cell("same as small", designs.SMALL)))
    found = run_study(wider, tmp_path / "b", runs=runs, executor=here)
    assert found.complete
    assert len({path.name for path in runs.iterdir()} - before) == 2
    by_cell = {(row.cell, row.seed): row.digest for row in found.runs}
    assert by_cell["small", 1] == by_cell["same as small", 1]


def test_what_another_study_measured_of_a_shared_run_is_not_in_this_ones_tables(tmp_path, task, here):
    study = designs.two_cells(task, seeds=(0,))
    sharp = replace(study, cells=tuple(replace(cell, measures=("sharpness",)) for cell in study.cells))
    both = {}
    for name, kinds in (("a", ("lambda_max", "trace")), ("b", ("lambda_max",))):
        one = replace(sharp, measures=replace(sharp.measures, sharpness=kinds, sharpness_samples=64))
        both[name] = run_study(one, tmp_path / name, runs=tmp_path / "runs", executor=here)
    assert {row.name for row in both["a"].measurements} == {"lambda_max", "trace"}
    assert {row.name for row in both["b"].measurements} == {"lambda_max"}
    kept = [row for row in both["a"].measurements if row.name == "lambda_max"]
    assert kept == list(both["b"].measurements)


def test_runs_of_train_count(tmp_path, task, here):
    study = designs.two_cells(task, seeds=(1,))
    loaded = Subject(task).load()
    model, _ = train.prepare(loaded, designs.SMALL, train.Execution(), seed=1)
    digest = train.identity(loaded, designs.SMALL, 1, model)
    train.fit(loaded, designs.SMALL, seed=1, out=tmp_path / "runs" / digest, progress=False)
    made = (tmp_path / "runs" / digest / "result.json").stat().st_mtime_ns
    found = run_study(study, tmp_path / "a", runs=tmp_path / "runs", executor=here)
    assert found.complete
    assert (tmp_path / "runs" / digest / "result.json").stat().st_mtime_ns == made


def test_a_run_that_crashes_is_a_row_with_its_reason(tmp_path, task, here):
    crash = Cell("crash", designs.SMALL.at(128, rule="none"), subject=Subject(task.replace(":task", ":crash")))
    study = designs.two_cells(task, seeds=(0,))
    study = replace(study, cells=(*study.cells, crash))
    found = run_study(study, tmp_path / "a", executor=here)
    lost = [row for row in found.runs if row.cell == "crash"]
    assert {(row.status, row.reason) for row in lost} == {("failed", "RuntimeError: no such batch")}
    assert sum(row.status == "finished" for row in found.runs) == 2
    assert not found.complete
    assert found.cell("crash").failed == 1
    assert "crash, seed 0: RuntimeError: no such batch" in found.text()


def test_a_diverged_run_is_a_row_and_is_not_made_again(tmp_path, task, here):
    wild = Cell("wild", replace(designs.SMALL, lr=1e20, schedule="constant"))
    study = designs.two_cells(task, seeds=(0, 1))
    study = replace(study, cells=(*study.cells, wild))
    found = run_study(study, tmp_path / "a", executor=here)
    assert found.complete
    assert found.cell("wild").diverged == 2
    assert all("diverged at step" in row.reason for row in found.runs if row.cell == "wild")
    times = folders(tmp_path / "a")
    run_study(study, tmp_path / "a", executor=here)
    assert folders(tmp_path / "a") == times


def test_a_stack_is_trained_together_and_completed_alone(tmp_path, here):
    """One result of a stack is lost; the study ends as before, to the bit."""
    task = f"{designs.write_task(tmp_path)}:stacked"
    first = run_study(designs.two_cells(task), tmp_path / "a", executor=here)
    assert all(row.stacked for row in first.runs)
    victim = tmp_path / "a" / next(row.folder for row in first.runs if row.seed == 1)
    (victim / "result.json").unlink()
    (victim / "measurements.json").unlink()
    again = run_study(designs.two_cells(task), tmp_path / "a", executor=here)
    assert designs.without_times(again) == designs.without_times(first)


def test_a_task_that_changed_since_the_plan_is_not_trained(tmp_path, task):
    job = RunJob(Subject(task), designs.SMALL, 0, str(tmp_path / "0123456789ab"), designs.FEW_LOOKS)
    with pytest.raises(ValueError, match=r"planned for, run 0123456789ab, got one that makes it run .* changed since"):
        perform(job)
    assert not (tmp_path / "0123456789ab").exists()


class MortalPool(Executor):
    """Dies of the killer with all that is in flight, as `ProcessPoolExecutor` does. Jobs run in pairs, or after a moment."""

    def __init__(self):
        self.flying, self.dead = [], False

    def submit(self, work, job):
        future = Future()
        self.flying.append((future, work, job))
        if len(self.flying) > 1:
            self.run()
        else:
            threading.Timer(0.3, self.run).start()
        return future

    def run(self):
        flying, self.flying = self.flying, []
        self.dead |= any(":killer" in str(job) for _, _, job in flying)
        for future, work, job in flying:
            if self.dead:
                future.set_exception(BrokenProcessPool("a worker was killed"))
            else:
                future.set_result(work(job))


def with_killer(task):
    killer = Cell("killer", designs.SMALL, subject=Subject(task.replace(":task", ":killer")))
    study = designs.two_cells(task, seeds=(0,))
    return replace(study, cells=(killer, *study.cells), contrasts=())


def fails_alone(found):
    assert {row.cell: row.status for row in found.runs} == {
        "killer": "failed",
        "small": "finished",
        "large": "finished",
    }
    assert f"its worker was killed {MOST_DEATHS} times" in found.runs[0].reason


def test_a_deadly_run_fails_alone(tmp_path, task, monkeypatch):
    """It takes the pool with it each time; whoever was in flight with it is given again, and ends well."""
    pools = []

    def pool():
        pools.append(MortalPool())
        return pools[-1]

    monkeypatch.setattr(runner, "local_pool", lambda *_: pool)
    fails_alone(run_study(with_killer(task), tmp_path / "a", workers=2))
    assert sum(one.dead for one in pools) == MOST_DEATHS


@pytest.mark.slow
def test_a_deadly_run_fails_alone_in_real_processes(tmp_path, task):
    fails_alone(run_study(with_killer(task), tmp_path / "a", workers=2))


def start(tmp_path, task, *, workers=2, **environment):
    (tmp_path / "my_study.py").write_text(STUDY_FILE.format(tests=str(Path(__file__).parent), task=task))
    words = [
        sys.executable,
        "-m",
        "largebatch",
        "study",
        "my_study.py:study",
        "--out",
        "a",
        "--workers",
        str(workers),
        "--no-report",
    ]
    return subprocess.Popen(
        words, cwd=tmp_path, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def children_of(parent):
    """Of the fork server, and its forks, which are the workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = path.read_text().partition(" ")
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if int(rest.rpartition(")")[2].split()[1]) == parent and b"forkserver" in command:
                found.append(int(pid))
        except (OSError, IndexError, ValueError):
            continue
    return found


def wait_for(condition, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ended(tmp_path):
    return {path.parent.name: path.read_bytes() for path in (tmp_path / "a" / "runs").glob("*/result.json")}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_kill_9_of_study_and_workers_loses_nothing(tmp_path, task, here):
    """Workers are killed twice and the study once; what had ended stays as it was, and the table is the undisturbed one."""
    undisturbed = run_study(designs.two_cells(task), tmp_path / "undisturbed", executor=here)
    process = start(tmp_path, task, SLOW_SECONDS="0.01")
    kept = {}
    for number in (1, 2):
        wait_for(lambda: len(ended(tmp_path)) >= number, process)  # noqa: B023
        kept |= ended(tmp_path)
        (server,) = children_of(process.pid)
        wait_for(lambda: len(children_of(server)) == 2, process)  # noqa: B023
        os.kill(children_of(server)[0], signal.SIGKILL)
    wait_for(lambda: len(ended(tmp_path)) >= 3, process)
    (server,) = children_of(process.pid)
    left = [server, *children_of(server)]
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in left):
        assert time.monotonic() < deadline, "workers outlive the study"
        time.sleep(0.05)
    kept |= ended(tmp_path)
    process = start(tmp_path, task, workers=1, SLOW_SECONDS="0")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "gap" in out
    now = ended(tmp_path)
    assert {name: now[name] for name in kept} == kept
    left = [designs.without_times(study) for study in (read_study(tmp_path / "a"), undisturbed)]
    for row in left:
        for run in row["runs"]:
            run["folder"] = Path(run["folder"]).name
    assert left[0] == left[1]


@pytest.mark.slow
def test_a_study_that_is_stopped_waits_for_the_updates_at_hand_alone(tmp_path, task):
    """Only the study gets the signal, as from a scheduler; each of its runs would take seconds."""
    process = start(tmp_path, task, SLOW_SECONDS="0.05")
    logs = tmp_path / "a" / "runs"
    wait_for(lambda: sum('"update"' in path.read_text() for path in logs.glob("*/log.jsonl")) == 2, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (143, "")
    assert err == "stopping after the updates at hand; the same command goes on from there\n"
    assert not ended(tmp_path)
    kept = [int(path.name) for path in logs.glob("*/checkpoints/*")]
    assert sum(samples % 512 > 0 for samples in kept) == 2, kept  # within an epoch


def test_another_study_in_the_folder_is_refused(tmp_path, task, here):
    run_study(designs.two_cells(task, seeds=(0,)), tmp_path / "a", executor=here)
    with pytest.raises(ValueError, match="holds the study 'two', this is 'other': choose another --out"):
        run_study(designs.two_cells(task, name="other"), tmp_path / "a", executor=here)


def test_a_recipe_that_does_not_fit_names_its_cell_and_nothing_is_written(tmp_path, task, here):
    study = designs.two_cells(task)
    study = replace(study, cells=(*study.cells, Cell("too large", designs.SMALL.at(1024, rule="none"))))
    with pytest.raises(ValueError, match="cell 'too large'"):
        run_study(study, tmp_path / "a", executor=here)
    assert not (tmp_path / "a").exists()


def test_no_workers_and_no_study_are_refused(tmp_path, task):
    with pytest.raises(ValueError, match="workers: expected at least 1 process, got 0"):
        run_study(designs.two_cells(task), tmp_path / "a", workers=0)
    with pytest.raises(ValueError, match="expected the folder of a study"):
        read_study(tmp_path)


def test_the_design_is_written_first(tmp_path, task, here):
    run_study(designs.two_cells(task, seeds=(0,)), tmp_path / "a", executor=here, command="the command")
    design = read_json(tmp_path / "a" / "study.json")
    assert [cell["name"] for cell in design["cells"]] == ["small", "large"]
    assert design["command"] == "the command"
    assert json.loads(json.dumps(design["measures"]))["look_samples"] == 128
