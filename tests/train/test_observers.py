"""Three real users of Observer beside the run log: a noise scale, a tracker of λ_max, TensorBoard."""

import pytest
import torch

import small_tasks
from largebatch import core
from largebatch.core import Request, View
from largebatch.curvature import LambdaMax
from largebatch.tasks import LogisticRegression, NoisyQuadratic
from largebatch.train import TensorBoard, fit
from ranks import run_ranks


class Catcher:
    """Keeps everything it is shown."""

    name = "catcher"

    def __init__(self, request):
        self.request, self.views, self.epochs = request, [], []

    def wants(self, update):
        return self.request

    def see(self, view):
        self.views.append(view)

    def see_epoch(self, view):
        self.epochs.append(view)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def caught(world_parts=4):
    catcher = Catcher(Request(parts=world_parts, norms=True))
    fit(small_tasks.task(), small_tasks.recipe(duration="2ep"), observers=[catcher], progress=False)
    return [
        (v.samples, v.loss, v.gradient_squared_norm, v.partials.counts, v.partials.squared_norms) for v in catcher.views
    ]


def test_partial_gradients_are_those_of_their_ghosts():
    """The mean of the parts, weighted by their samples, has the norm of the whole only if each part is right."""
    task = small_tasks.task()
    model = small_tasks.build(task)
    core.swap_batchnorm(model, 8)
    chosen = core.permutation(203, 0, 0)[:64]
    norms = []
    for start in range(0, 64, 16):
        part = chosen[start : start + 16]
        loss = core.cross_entropy(model(task.train[0][part]), task.train[1][part]).mean()
        norms.append(sum(g.square().sum() for g in torch.autograd.grad(loss, list(model.parameters()))))
    _, _, _, counts, squared_norms = caught()[0]
    assert counts.tolist() == [16, 16, 16, 16]
    torch.testing.assert_close(squared_norms, torch.stack(norms), rtol=1e-10, atol=0)


def test_splitting_changes_nothing_and_ranks_show_the_same_parts():
    split = caught(4)
    alone = Catcher(Request(norms=True))
    fit(small_tasks.task(), small_tasks.recipe(duration="2ep"), observers=[alone], progress=False)
    for a, b in zip(alone.views, split, strict=True):
        assert a.partials is None
        torch.testing.assert_close((a.loss, a.gradient_squared_norm), b[1:3], rtol=1e-12, atol=1e-14)
    for rows in run_ranks(caught, 2):
        for a, b in zip(split, rows, strict=True):
            assert a[0] == b[0]
            torch.testing.assert_close(a[1:3], b[1:3], rtol=1e-10, atol=1e-14)
            assert b[3].sum() == a[3].sum()
            if a[3].tolist() == b[3].tolist():
                torch.testing.assert_close(a[4], b[4], rtol=1e-10, atol=1e-14)


def quadratic():
    hessian = torch.diag(torch.tensor([5.0, 2.0, 0.5], dtype=torch.float64))
    return NoisyQuadratic(hessian, torch.eye(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))


def look(tracker, risk, update=0, lr=0.1):
    tracker.see(View(update, 0, 0.0, 0, 32, lr, torch.zeros(()), risk=risk))
    return tracker.rows[-1]


def test_lambda_max_of_a_quadratic_is_exact_within_its_bound_and_cheaper_when_seen_again():
    problem = quadratic()
    task = problem.task()
    risk = core.Risk(task.model(), task.loss, task.train, batch_size=7)
    tracker = LambdaMax(every=1, tolerance=1e-6)
    first, second = look(tracker, risk), look(tracker, risk, update=1)
    for row in (first, second):
        assert abs(row["lambda_max"] - 5.0) <= row["residual"] + 1e-9
        assert row["residual"] <= 5e-6
        assert row["sharpness_times_lr"] == pytest.approx(0.5)
    assert list(first) == ["update", "lambda_max", "residual", "sharpness_times_lr", "products"]
    assert second["products"] <= first["products"] == 3


def test_a_look_after_the_first_costs_two_to_five_products():
    tracker = LambdaMax(every=5)
    fit(small_tasks.task(), small_tasks.recipe(), observers=[tracker], progress=False)
    first, *later = [row["products"] for row in tracker.rows]
    assert len(later) == 9
    assert max(later) <= 5
    assert sum(later) / len(later) < first


def test_a_look_at_a_subset_has_its_sampling_error():
    """The error of 128 of 2,000 examples, against the spread of the largest eigenvalue over such subsets."""
    task = LogisticRegression.generate(2000).task()
    model = task.model()
    risk = core.Risk(model, task.loss, task.train, batch_size=500)
    exact = look(LambdaMax(every=1, tolerance=1e-6), risk)
    rows = [look(LambdaMax(every=1, samples=128, seed=seed), risk) for seed in range(30)]
    assert "sampling_error" not in exact
    errors = torch.tensor([row["sampling_error"] for row in rows])
    spread = torch.tensor([row["lambda_max"] for row in rows]).std()
    assert 0.5 < float(spread / errors.mean()) < 2.0


def track(size_hint):
    tracker = LambdaMax(every=10, max_products=30)
    run = fit(small_tasks.task(), small_tasks.recipe(), observers=[tracker], progress=False)
    return [(row["update"], row["lambda_max"]) for row in tracker.rows], run.metrics


def test_lambda_max_is_tracked_and_leaves_no_trace_on_any_number_of_ranks():
    plain = fit(small_tasks.task(), small_tasks.recipe(), progress=False)
    rows, metrics = track(1)
    assert [update for update, _ in rows] == [0, 10, 20, 30, 40]
    assert metrics == plain.metrics
    for found, _ in run_ranks(track, 2, 2):
        assert [update for update, _ in found] == [update for update, _ in rows]
        assert [value for _, value in found] == pytest.approx([value for _, value in rows], rel=1e-8)


def test_tensorboard_gets_the_curves_by_samples(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(
        small_tasks.task(),
        small_tasks.recipe(duration="2ep"),
        observers=[TensorBoard(tmp_path, every=1)],
        progress=False,
    )
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"train/loss", "optim/lr", "optim/gradient_norm", "epoch/held_out_accuracy"} <= set(events.Tags()["scalars"])
    assert [point.step for point in events.Scalars("epoch/train_loss")] == [203, 406]


def test_tensorboard_forgets_what_a_run_that_begins_again_had_written(tmp_path):
    """Killed before its first checkpoint, a run starts at 0 samples: its old points must not stay beside the new."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for value in (1.0, 2.0):
        board = TensorBoard(tmp_path, every=1)
        board.see_epoch(core.EpochView(0, 0, 1, 64, 1.0, {"train_loss": value}))
        board.see_epoch(core.EpochView(1, 0, 2, 128, 1.0, {"train_loss": value}))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(point.step, point.value) for point in events.Scalars("epoch/train_loss")] == [(64, 2.0), (128, 2.0)]


def test_tensorboard_that_is_not_installed_says_how_to_install_it(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'largebatch\[tensorboard\]'"):
        TensorBoard(tmp_path)
