"""Step times measured here: what is timed is an update of the size asked for, on so many workers, and a failure is told."""

import pytest

from largebatch import tasks
from largebatch.study import measure_steps, time_updates

FAILING = """
import os
from largebatch import tasks
if "RANK" in os.environ:
    raise OSError("the disk is gone")
task = tasks.get("digits/mlp")
"""


def test_measured_updates_make_a_model_of_the_step():
    found = measure_steps(tasks.find("digits/mlp"), local_batch_sizes=(16, 64, 256), updates=5)
    assert (found.task, found.workers, found.local_batch_sizes) == ("digits/mlp", 2, (16, 64, 256))
    assert found.gradient_bytes == 4 * sum(p.numel() for p in tasks.get("digits/mlp").model().parameters())
    assert found.alone.seconds_per_sample.value > 0
    assert found.network.seconds_per_byte.value > 0
    for together in (False, True):
        step = found.step_time(together=together)
        one, two = (float(step.seconds(workers, 64)) for workers in (1, 2))
        assert 1e-5 < one < two < 1.0
        assert float(step.seconds(1, 256)) > one
    assert "at once; all-reduce" in found.text()


def test_a_longer_update_takes_longer():
    assert time_updates("digits/mlp", 1024, workers=1, updates=10) > time_updates(
        "digits/mlp", 4, workers=1, updates=10
    )


def test_one_worker_shares_nothing():
    with pytest.raises(ValueError, match="workers: expected 2 or more to measure an all-reduce, got 1"):
        measure_steps(tasks.find("digits/mlp"), workers=1)


def test_what_a_worker_failed_of_is_told(tmp_path):
    (tmp_path / "broken.py").write_text(FAILING)
    with pytest.raises(RuntimeError, match=r"on 2 worker\(s\): a worker failed: .*the disk is gone"):
        time_updates(f"{tmp_path / 'broken.py'}:task", 8, workers=2, updates=3)
