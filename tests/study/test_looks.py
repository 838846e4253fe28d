"""Looks against closed forms: a softmax regression carries its gradient, noise and Hessian."""

import math

import pytest
import torch

import small_tasks
from largebatch import train
from largebatch.comparison import Measures
from largebatch.core import Risk, View
from largebatch.recipe import Phase, Timeline
from largebatch.study._looks import Looks, look_updates
from largebatch.tasks import SoftmaxRegression


@pytest.fixture
def problem():
    return SoftmaxRegression.generate(96, 5, seed=3)


def seen(problem, points, *, chunk, batch_size, curved=True, samples=1000):
    """Rows of looks at these weights, one after another."""
    task = problem.task()
    model = task.model()
    looks = Looks(
        dict.fromkeys(range(len(points)), curved), chunk=chunk, batch_size=batch_size, samples=samples,
        curvature_samples=1000, seed=0,
    )  # fmt: skip
    for update, point in enumerate(points):
        with torch.no_grad():
            model.weight.copy_(point.view_as(model.weight))
        assert looks.wants(update).risk
        risk = Risk(model, task.loss, task.train)
        looks.see(View(update, 0, 0.5, 10 * (update + 1), batch_size, 0.25, torch.tensor(1.0), risk=risk))
    assert looks.wants(len(points)) is None
    return looks.rows


def points_of(problem, number):
    size = len(problem.hessian(torch.zeros(problem.outputs * problem.train[0].shape[1], dtype=torch.float64)))
    source = torch.Generator().manual_seed(7)
    return [0.3 * torch.randn(size, generator=source, dtype=torch.float64) for _ in range(number)]


def test_gradient_noise_and_curvature_are_the_problems_own(problem):
    (point,) = points_of(problem, 1)
    (row,) = seen(problem, [point], chunk=1, batch_size=1)
    values, n = row["values"], len(problem.train[1])
    assert values["gradient_norm"] == pytest.approx(float(problem.gradient(point).norm()), rel=1e-10)
    assert values["noise_scale"] == pytest.approx(n / (n - 1) * problem.noise_scale(point), rel=1e-8)
    largest = float(torch.linalg.eigvalsh(problem.hessian(point))[-1])
    assert values["lambda_max"] == pytest.approx(largest, rel=0.03)  # Lanczos stops at 2 %
    assert values["sharpness_times_lr"] == pytest.approx(0.25 * values["lambda_max"])


def test_ragged_chunks_give_the_full_gradient(problem):
    """96 samples in chunks of 36: the last one is of 24."""
    (point,) = points_of(problem, 1)
    (row,) = seen(problem, [point], chunk=36, batch_size=36)
    assert row["values"]["gradient_norm"] == pytest.approx(float(problem.gradient(point).norm()), rel=1e-12)


def test_the_whole_batch_is_the_full_gradient_and_a_small_one_is_not(problem):
    (point,) = points_of(problem, 1)
    whole = seen(problem, [point], chunk=8, batch_size=96)[0]["values"]
    small = seen(problem, [point], chunk=8, batch_size=8)[0]["values"]
    assert whole["batch_cosine"] == pytest.approx(1, abs=1e-12)
    assert small["batch_cosine"] < 0.99


def test_the_cosine_of_batches_is_that_of_batches_drawn_elsewhere(problem):
    """The mean over the 6 batches of a look, against 2,000 drawn from the closed form's example gradients: |z| < 4."""
    point = points_of(problem, 1)[0]
    cosine = seen(problem, [point], chunk=16, batch_size=16)[0]["values"]["batch_cosine"]
    gradients, full = problem.example_gradients(point), problem.gradient(point)
    source = torch.Generator().manual_seed(1)
    drawn = torch.stack([gradients[torch.randperm(96, generator=source)[:16]].mean(0) for _ in range(2000)])
    cosines = torch.nn.functional.cosine_similarity(drawn, full[None])
    assert abs(cosine - float(cosines.mean())) < 4 * float(cosines.std()) / math.sqrt(6)


def test_the_step_cosine_is_that_of_full_gradients(problem):
    a, b = points_of(problem, 2)
    first, second = seen(problem, [a, b], chunk=24, batch_size=24, curved=False)
    assert "step_cosine" not in first["values"]
    assert "lambda_max" not in first["values"]
    expected = torch.nn.functional.cosine_similarity(problem.gradient(a), problem.gradient(b), dim=0)
    assert second["values"]["step_cosine"] == pytest.approx(float(expected), abs=1e-10)
    assert second["values"]["step_samples"] == 10


def test_looks_at_weights_that_are_not_finite_see_nothing(problem):
    (point,) = points_of(problem, 1)
    assert seen(problem, [point * math.nan], chunk=8, batch_size=8) == []


def test_moments_are_counted_in_samples_and_shares():
    recipe = small_tasks.recipe(64, duration="10ep")  # 203 samples: 4 updates an epoch, 40 in all
    measures = Measures(
        look_epochs=(0.0, 0.5, 2.0), look_shares=(0.5, 1.0), curvature_epochs=(1.0,), curvature_shares=(1.0,)
    )
    updates = look_updates(recipe, 203, measures)
    timeline = Timeline(recipe, 203)
    assert list(updates) == [0, 1, 3, 7, 19, 39]
    assert [update for update, curved in updates.items() if curved] == [3, 39]
    assert timeline.samples_before(1 + 1) >= 0.5 * 203 > timeline.samples_before(1)
    twice = small_tasks.recipe(64, duration="5ep", then=Phase(small_tasks.recipe(203, duration="5ep")))
    assert list(look_updates(twice, 203, measures))[-1] == 24


def test_looks_leave_no_trace_and_go_on_after_a_resume(tmp_path):
    task, recipe = small_tasks.task(), small_tasks.recipe(duration="40steps")

    def looks():
        updates = look_updates(recipe, 203, Measures())
        return Looks(updates, chunk=8, batch_size=64, samples=64, curvature_samples=64, seed=0)

    plain = train.fit(task, recipe, seed=1, progress=False)
    watched = looks()
    run = train.fit(task, recipe, seed=1, observers=[watched], progress=False)
    for ours, theirs in zip(run.model.state_dict().values(), plain.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    half, again = looks(), looks()
    half.rows, half._last = watched.rows[:3], torch.zeros(3)
    again.load_state_dict(half.state_dict())
    assert again.rows == watched.rows[:3]
    assert torch.equal(again._last, torch.zeros(3))
