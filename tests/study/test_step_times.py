"""Step times measured here: what is timed is an update of the size asked for, on so many workers, and a failure is told."""

import pytest

from largebatch import tasks
from largebatch.study import HeldOut, measure_steps

FAILING = """
import os
from largebatch import tasks
if "RANK" in os.environ:
    raise OSError("the disk is gone")
task = tasks.get("digits/mlp")
"""


def test_measured_updates_make_a_model_of_the_step():
    found = measure_steps(
        tasks.find("digits/mlp"), local_batch_sizes=(8, 128, 700), held_out=(400,), updates=5, rounds=2
    )
    assert (found.task, found.workers, found.local_batch_sizes) == ("digits/mlp", 2, (8, 128, 700))
    assert found.gradient_bytes == 4 * sum(p.numel() for p in tasks.get("digits/mlp").model().parameters())
    assert found.network.seconds_per_byte.value > 0
    assert 0 <= found.jitter < 1
    for together in (False, True):
        step = found.step_time(together=together)
        assert 1e-5 < step.seconds(1, 8) < step.seconds(1, 700) < 1.0
        assert step.seconds(2, 8) > step.seconds(1, 8)
    assert [(row.workers, row.local_batch_size) for row in found.held_out] == [(1, 400), (2, 400)]
    for row in found.held_out:
        assert row.predicted_seconds == float(found.step_time(together=row.workers > 1).seconds(row.workers, 400))
        assert 1e-5 < row.measured_seconds < 1.0
    assert "at once; all-reduce" in found.text()


def test_the_error_of_a_prediction_is_a_share_of_what_was_measured():
    assert HeldOut(2, 64, predicted_seconds=0.9, measured_seconds=1.0).error == pytest.approx(-0.1)


def test_one_worker_shares_nothing():
    with pytest.raises(ValueError, match="workers: expected 2 or more to measure an all-reduce, got 1"):
        measure_steps(tasks.find("digits/mlp"), workers=1)


def test_what_a_worker_failed_of_is_told(tmp_path):
    (tmp_path / "broken.py").write_text(FAILING)
    task = tasks.find(f"{tmp_path / 'broken.py'}:task")
    with pytest.raises(RuntimeError, match=r"on 2 worker\(s\): a worker failed: .*the disk is gone"):
        measure_steps(task, updates=3)
