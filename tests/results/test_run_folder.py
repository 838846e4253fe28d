"""The run folder: what is written survives a kill at any byte, and one process at a time writes."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from largebatch.results import RunFolder, run_digest

ROWS = [{"phase": p, "samples": s, "loss": s / 10} for p, s in [(0, 10), (0, 20), (0, 30), (1, 10), (1, 20)]]


def test_files_come_back_and_nothing_is_made_before(tmp_path):
    folder = RunFolder(str(tmp_path / "runs" / "a"))
    assert folder.read("result.json") is None
    assert folder.log() == []
    folder.cut_back(0)
    assert not folder.path.exists()
    folder.write("result.json", {"loss": math.inf, "status": "diverged"})
    assert folder.read("result.json") == {"loss": math.inf, "status": "diverged"}
    assert RunFolder.decode((folder.path / "result.json").read_bytes()) == folder.read("result.json")
    assert folder.checkpoints == tmp_path / "runs" / "a" / "checkpoints"


def test_rows_are_appended(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append(ROWS[:2])
    folder.append([])
    folder.append(iter(ROWS[2:]))
    assert folder.log() == ROWS
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == len(ROWS)


def test_a_row_that_cannot_be_kept_writes_none(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append(ROWS[:1])
    with pytest.raises(ValueError, match=r"log: expected \"samples\" in every row, got \['loss'\]"):
        folder.append([ROWS[1], {"loss": 1}])
    with pytest.raises(ValueError, match="expected plain data for JSON, got a set"):
        folder.append([ROWS[1], {"samples": 1, "x": {1}}])
    assert folder.log() == ROWS[:1]


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_a_log_cut_at_any_byte_loses_no_whole_row_and_goes_on(tmp_path_factory, data):
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.append(ROWS)
    log = folder.path / "log.jsonl"
    content = log.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    log.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    assert folder.log() == ROWS[:whole]
    folder.append(ROWS[whole:])
    assert log.read_bytes() == content


def test_a_damaged_line_before_the_last_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append(ROWS)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    (tmp_path / "log.jsonl").write_text("\n".join([lines[0], lines[1][:9], *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2: expected a row of JSON, got .*; delete that line"):
        folder.log()


@pytest.mark.parametrize(
    ("samples", "phase", "kept"), [(20, 0, 2), (30, 0, 3), (10, 1, 4), (0, 1, 3), (20, 1, 5), (-1, 0, 0), (99, 0, 3)]
)
def test_rows_beyond_a_checkpoint_are_dropped(tmp_path, samples, phase, kept):
    folder = RunFolder(tmp_path)
    folder.append(ROWS)
    folder.cut_back(samples, phase)
    assert folder.log() == ROWS[:kept]


def test_rows_that_count_from_the_start_of_the_run_are_cut_by_samples_alone(tmp_path):
    folder = RunFolder(tmp_path)
    rows = [{"phase": p, "samples": s} for p, s in [(0, 10), (0, 20), (1, 30), (1, 40)]]
    folder.append(rows)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"samples": 5')
    folder.cut_back(30)
    assert folder.log() == rows[:3]
    assert "5" not in (tmp_path / "log.jsonl").read_text()
    folder.cut_back(-1)
    assert folder.log() == []


HOLDER = """
import sys, time
from largebatch.results import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(path, seconds):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(seconds)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_folder_in_use_is_refused_and_the_process_named(tmp_path):
    holder = hold(tmp_path, 60)
    try:
        with pytest.raises(RuntimeError, match=f"process {holder.pid} holds it; wait"), RunFolder(tmp_path).lock(0):
            pass
    finally:
        holder.kill()  # the operating system lets go for it
        holder.communicate()
    with RunFolder(tmp_path).lock(0):
        assert (tmp_path / "lock").read_text() == str(os.getpid())
    with RunFolder(tmp_path).lock(0):
        pass


def test_a_folder_in_use_for_a_moment_is_waited_for(tmp_path):
    holder = hold(tmp_path, 0.3)
    start = time.monotonic()
    with RunFolder(tmp_path).lock():
        assert time.monotonic() - start < 5
    holder.communicate()


def test_the_lock_is_let_go_after_an_error(tmp_path):
    with pytest.raises(KeyError), RunFolder(tmp_path).lock():
        raise KeyError
    with RunFolder(tmp_path).lock(0):
        pass


def test_the_digest_depends_on_every_part_and_on_no_order():
    digest = run_digest(task="a", recipe={"lr": 0.1, "batch": 256}, seed=0)
    assert digest == run_digest(seed=0, recipe={"batch": 256, "lr": 0.1}, task="a")
    assert len(digest) == 12
    assert int(digest, 16) >= 0
    others = [
        run_digest(task="b", recipe={"lr": 0.1, "batch": 256}, seed=0),
        run_digest(task="a", recipe={"lr": math.nextafter(0.1, 1), "batch": 256}, seed=0),
        run_digest(task="a", recipe={"lr": math.nan, "batch": 256}, seed=0),
        run_digest(task="a", recipe={"lr": 0.1, "batch": 256}, seed=1),
    ]
    assert len({digest, *others}) == 5
    # printf '{"a":[1,2]}' | b2sum -l 48: the same on every machine.
    assert run_digest(a=[1, 2]) == run_digest(a=(1, 2)) == "232669248d7c"
    with pytest.raises(ValueError, match=r"digest\.path: expected plain data for JSON"):
        run_digest(path=Path("x"))


def test_the_log_is_plain_json_lines(tmp_path):
    RunFolder(tmp_path).append([{"samples": 1, "loss": math.nan}])
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"samples": 1, "loss": "NaN"}
    assert math.isnan(RunFolder(tmp_path).log()[0]["loss"])
