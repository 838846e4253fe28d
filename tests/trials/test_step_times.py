"""Step times measured here: what is timed is an update of the size asked for, on so many workers, and a failure is told."""

import pytest

from largebatch import plan, tasks
from largebatch.results import Estimate
from largebatch.trials import HeldOut, StepMeasurement, _step_times, measure_steps

FAILING = """
import os
from largebatch import plan, tasks
from largebatch.results import Estimate
if "RANK" in os.environ:
    raise OSError("the disk is gone")
task = tasks.get("digits/mlp")
"""


# Digits, with channels of 8 × 8 that make 48 samples more take tens of milliseconds and no other load hides.
DEEP = """
from dataclasses import replace
from torch import nn
from largebatch import tasks

def network():
    return nn.Sequential(
        nn.Flatten(), nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 64, 10),
    )

task = replace(tasks.get("digits/mlp"), name="digits/deep", model=network)
"""


def test_measured_updates_make_a_model_of_the_step(tmp_path):
    (tmp_path / "deep.py").write_text(DEEP)
    task = tasks.find(f"{tmp_path / 'deep.py'}:task")
    found = measure_steps(task, local_batch_sizes=(16, 32, 64), held_out=(48,), updates=6, rounds=2)
    assert (found.task, found.workers, found.local_batch_sizes) == ("digits/deep", 2, (16, 32, 64))
    assert found.gradient_bytes == 4 * sum(p.numel() for p in task.model().parameters())
    assert found.network.seconds_per_byte.value > 0
    assert 0 <= found.jitter < 1
    for together in (False, True):
        step = found.step_time(together=together)
        assert 1e-5 < step.seconds(1, 16) < step.seconds(1, 64) < 1.0
        assert step.seconds(2, 16) > step.seconds(1, 16)
    assert [(row.workers, row.local_batch_size) for row in found.held_out] == [(1, 48), (2, 48)]
    for row in found.held_out:
        assert row.predicted_seconds == float(found.step_time(together=row.workers > 1).seconds(row.workers, 48))
        assert 1e-5 < row.measured_seconds < 1.0
    assert "at once; all-reduce" in found.text()


def test_a_step_is_the_sum_of_what_was_measured():
    exact = [Estimate(value, 0.0, value, value, 5, "s") for value in (2e-3, 1e-5, 0.0, 1e-9, 4e-3)]
    fixed, per_sample, latency, per_byte, joining = exact
    compute = plan.ComputeFit(fixed, per_sample, 0.01)
    overlap = plan.OverlapFit(Estimate(1.0, 0.0, 1.0, 1.0, 5), joining, 0.03)
    network = plan.NetworkFit(latency, per_byte, 0.02)
    found = StepMeasurement("a", 2, (16, 32, 64), compute, compute, network, 0.0, overlap, 1e6)
    step = found.step_time()
    assert float(step.seconds(1, 100)) == pytest.approx(0.003)
    assert float(step.seconds(2, 100)) == pytest.approx(0.003 + 0.001 + 0.004)
    assert step.relative_error == 0.03
    assert "joining 4.00 ms" in found.text()


def test_the_error_of_a_prediction_is_a_share_of_what_was_measured():
    assert HeldOut(2, 64, predicted_seconds=0.9, measured_seconds=1.0).error == pytest.approx(-0.1)


def test_mistakes_are_told_together_before_anything_is_timed():
    with pytest.raises(ValueError, match="step times: 4 mistakes") as told:
        measure_steps(tasks.find("digits/mlp"), local_batch_sizes=(16, 40), held_out=(16,), workers=1)
    text = str(told.value)
    assert "workers: expected 2 or more to measure an all-reduce, got 1" in text
    assert "local_batch_sizes: expected 3 different ones or more, got [16, 40]" in text
    assert "sizes: expected whole ghosts of 16 samples, which ranks share equally, got [40]" in text
    assert "held_out: expected sizes that are not fitted, got [16]" in text


@pytest.mark.parametrize(
    ("ghost", "most", "sizes"),
    [(32, 30_000, (64, 128, 256)), (1, 30_000, (64, 128, 256)), (24, 30_000, (72, 144, 288)),
     (256, 30_000, (256, 512, 1024)), (16, 180, (32, 64, 128)), (1, 90, (22, 44, 88))],
)  # fmt: skip
def test_sizes_are_whole_ghosts_that_the_data_allow(ghost, most, sizes):
    assert _step_times._sizes(ghost, most) == sizes


def test_sizes_whose_epoch_ends_while_they_are_timed_are_refused():
    with pytest.raises(
        ValueError,
        match=r"at least 12 updates of 2 workers in an epoch of 1437 samples, which \[64, 128\] samples a worker",
    ):
        measure_steps(tasks.find("digits/mlp"), local_batch_sizes=(16, 32, 64), held_out=(128,))


def test_what_a_worker_failed_of_is_told(tmp_path):
    (tmp_path / "broken.py").write_text(FAILING)
    task = tasks.find(f"{tmp_path / 'broken.py'}:task")
    with pytest.raises(RuntimeError, match=r"on 2 worker\(s\): a worker failed: .*the disk is gone"):
        measure_steps(task, updates=3)
