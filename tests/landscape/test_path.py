"""Paths: the ends are the checkpoints, the values between are those of the weights between, train and test apart."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from landscape.landscapes import Function, assert_untouched, data, network, nothing, output_is_loss, traces
from largebatch.core import Risk, accuracy, cross_entropy, world_from_environment
from largebatch.landscape import Path, path
from largebatch.tasks._quadratic import Bowl
from oracles import landscape
from ranks import run_ranks

MODES = ["reestimated", "running", "batch"]


def bowl(p=6, seed=0):
    """A quadratic with its Hessian, two points, and test data whose losses have another slope."""
    source = torch.Generator().manual_seed(seed)
    root = torch.randn(p, p, generator=source, dtype=torch.float64)
    hessian = root @ root.T - 2.0 * torch.eye(p, dtype=torch.float64)
    a, b, shift = torch.randn(3, p, generator=source, dtype=torch.float64)
    train = torch.randn(7, p, generator=source, dtype=torch.float64)
    train -= train.mean(0)
    return hessian, a, b, (train, torch.zeros(7)), (train + shift, torch.zeros(7)), shift


@pytest.mark.parametrize("kind", ["line", "curve"])
def test_a_quadratic_has_the_losses_of_its_closed_form(kind):
    hessian, a, b, train, test, shift = bowl()
    found = path(a, b, model=Bowl(hessian, a), loss=output_is_loss, train=train, test=test, kind=kind, batch_size=3)
    assert found.alphas == tuple(-1 + i / 8 for i in range(25))
    for i, alpha in enumerate(found.alphas):
        turn = alpha * math.pi / 2
        x = (1 - alpha) * a + alpha * b if kind == "line" else math.sin(turn) * b + math.cos(turn) * a
        assert found.train_loss[i] == pytest.approx(float(x @ hessian @ x) / 2, rel=1e-12, abs=1e-12)
        assert found.test_loss[i] == pytest.approx(float(x @ hessian @ x) / 2 + float(shift @ x), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", ["line", "curve"])
@pytest.mark.parametrize("mode", MODES)
def test_the_ends_are_the_checkpoints_exactly(mode, kind):
    a, b, train, test = network(1), network(2), data(10), data(7, seed=1)
    metrics = {"accuracy": accuracy}
    found = path(
        a, b.state_dict(), loss=cross_entropy, train=train, test=test, metrics=metrics, batch_norm=mode, kind=kind,
        batch_size=4,
    )  # fmt: skip
    for model, alpha in ((a, 0.0), (b, 1.0)):
        at = found.alphas.index(alpha)
        means = Risk(model, cross_entropy, train, batch_norm=mode, batch_size=4).means(metrics)
        assert found.train_loss[at] == means["loss"]
        assert found.train_metrics["accuracy"][at] == means["accuracy"]
        if mode != "reestimated":  # there the statistics are of the training data
            means = Risk(model, cross_entropy, test, batch_norm=mode, batch_size=4).means(metrics)
            assert found.test_loss[at] == means["loss"]
            assert found.test_metrics["accuracy"][at] == means["accuracy"]


def test_running_statistics_are_interpolated_with_the_weights():
    a, b, train = network(1), network(2), data(10)
    found = path(
        a, b, loss=cross_entropy, train=train, batch_norm="running", span=(-0.25, 1.25), points=13, batch_size=3
    )
    for alpha, value in zip(found.alphas, found.train_loss, strict=True):
        state = landscape.mixed(a.state_dict(), b.state_dict(), alpha)
        expected = landscape.evaluate(a, state, train, cross_entropy)
        assert value == pytest.approx(float(expected.mean()), rel=1e-12)
    assert "interpolated linearly" in found.note


def test_statistics_taken_anew_serve_both_data_sets():
    a, b, train, test = network(1), network(2), data(10), data(7, seed=1)
    found = path(a, b, loss=cross_entropy, train=train, test=test)
    for i, alpha in enumerate(found.alphas):
        state = landscape.with_statistics_of(a, landscape.mixed(a.state_dict(), b.state_dict(), alpha), train[0])
        assert found.train_loss[i] == pytest.approx(
            float(landscape.evaluate(a, state, train, cross_entropy).mean()), rel=1e-12
        )
        assert found.test_loss[i] == pytest.approx(
            float(landscape.evaluate(a, state, test, cross_entropy).mean()), rel=1e-12
        )


@pytest.mark.parametrize("batch_size", [4, 3, 1])  # 4 + 4 + 2, 3 + 3 + 4
def test_ragged_batches_change_nothing(batch_size):
    measure = partial(
        path, network(1), network(2), loss=cross_entropy, train=data(10), batch_norm="running", points=4, span=(0, 1)
    )
    whole, parts = measure(batch_size=10), measure(batch_size=batch_size)
    assert parts.train_loss == pytest.approx(whole.train_loss, rel=1e-12)
    assert parts.train_stderr == pytest.approx(whole.train_stderr, rel=1e-12)


def test_standard_errors_are_those_of_means_over_samples():
    a, b, train = network(1), network(2), data(10)
    found = path(a, b, loss=cross_entropy, train=train, batch_norm="running", batch_size=3)
    losses = landscape.evaluate(a, a.state_dict(), train, cross_entropy)
    assert found.train_stderr[8] == pytest.approx(float(losses.std()) / math.sqrt(10), rel=1e-12)


def per_token(outputs, targets):
    values = cross_entropy(outputs, targets)
    return torch.stack([values, values**2], dim=1), torch.stack([targets.double(), torch.ones_like(values)], dim=1)


def test_weighted_losses_have_the_error_of_a_ratio():
    a, b, train = network(1), network(2), data(10)
    found = path(a, b, loss=per_token, train=train, batch_norm="running", batch_size=3)
    values, weights = landscape.evaluate(
        a, a.state_dict(), train, lambda o, t: torch.cat(per_token(o, t), dim=1)
    ).chunk(2, dim=1)
    sums, masses = (values * weights).sum(1), weights.sum(1)
    ratio = sums.sum() / masses.sum()
    error = (sums - ratio * masses).square().sum().sqrt() * math.sqrt(10 / 9) / masses.sum()
    assert found.train_loss[8] == pytest.approx(float(ratio), rel=1e-12)
    assert found.train_stderr[8] == pytest.approx(float(error), rel=1e-12)


def path_on_a_rank():
    with world_from_environment(torch.device("cpu")) as world:
        return path(
            network(1), network(2), loss=cross_entropy, train=data(10), test=data(5, seed=1), batch_norm="running",
            metrics={"accuracy": accuracy}, batch_size=3, points=4, span=(0, 1), world=world,
        )  # fmt: skip


def test_unequal_ranks_change_nothing():
    alone = path(
        network(1), network(2), loss=cross_entropy, train=data(10), test=data(5, seed=1), batch_norm="running",
        metrics={"accuracy": accuracy}, points=4, span=(0, 1),
    )  # fmt: skip
    for found in run_ranks(path_on_a_rank, 2):
        for name in ("train_loss", "train_stderr", "test_loss", "test_stderr", "barrier"):
            assert getattr(found, name) == pytest.approx(getattr(alone, name), rel=1e-12), name
        assert found.test_metrics["accuracy"] == pytest.approx(alone.test_metrics["accuracy"], rel=1e-12)


def test_both_ends_are_hit_whatever_the_number_of_points():
    for points in (2, 7, 10, 25, 100):
        found = path(
            torch.tensor([-1.0]), torch.tensor([2.0]), model=Function([0.0], lambda x: x.square().sum()),
            loss=output_is_loss, train=nothing(), points=points,
        )  # fmt: skip
        assert list(found.alphas) == sorted(set(found.alphas))
        assert found.train_loss[found.alphas.index(0.0)] == 1.0
        assert found.train_loss[found.alphas.index(1.0)] == 4.0
        assert (found.alphas[0], found.alphas[-1]) == (-1.0, 2.0)


def two_wells(x):
    return (x[0] ** 2 - 1) ** 2 + x[1] ** 2 + 0.5 * x[0]


def test_barrier_distance_and_angles():
    found = path(
        torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.0]), model=Function([0.0, 0.0], two_wells), loss=output_is_loss,
        train=nothing(), start=torch.tensor([0.0, 1.0]),
    )  # fmt: skip
    assert (found.barrier, found.barrier_alpha) == (pytest.approx(1.0), 0.5)  # the slope x/2 joins the ends: no barrier
    assert found.distance == 2.0
    assert found.angle_degrees == pytest.approx(180.0)
    assert found.start_cosine == pytest.approx(0.0)


def test_a_convex_path_has_no_barrier():
    found = path(
        torch.tensor([-1.0]), torch.tensor([2.0]), model=Function([0.0], lambda x: x.square().sum()),
        loss=output_is_loss, train=nothing(),
    )  # fmt: skip
    assert found.barrier == 0.0
    assert math.isnan(found.start_cosine)


def test_what_is_not_finite_is_kept():
    def function(x):
        return torch.where(x[0] > 0.8, torch.inf, (0.8 - x[0]).log())

    found = path(
        torch.tensor([0.0]), torch.tensor([0.5]), model=Function([0.0], function), loss=output_is_loss, train=nothing()
    )
    finite = [math.isfinite(value) for value in found.train_loss]
    assert finite == [0.5 * alpha < 0.8 for alpha in found.alphas]
    assert found.train_loss[-1] == math.inf
    assert found.note == "not finite at α = 1.625, 1.75, 1.875, 2"


def test_a_nan_between_the_ends_makes_the_barrier_nan_where_it_stands():
    found = path(
        torch.tensor([-1.0]), torch.tensor([1.0]), model=Function([0.0], lambda x: (x[0].abs() - 0.1).log()),
        loss=output_is_loss, train=nothing(), span=(0, 1), points=9,
    )  # fmt: skip
    assert math.isnan(found.barrier)
    assert found.barrier_alpha == 0.5
    assert math.isnan(found.train_loss[4])


def test_a_negative_extrapolated_variance_is_nan_and_told():
    a, b = network(1), network(2)
    a[1].running_var.fill_(0.1)
    b[1].running_var.fill_(1.0)
    found = path(a, b, loss=cross_entropy, train=data(10), batch_norm="running")
    negative = [alpha for alpha in found.alphas if 0.1 + 0.9 * alpha + 1e-5 < 0]
    assert len(negative) == 8
    assert [math.isnan(value) for value in found.train_loss] == [alpha in negative for alpha in found.alphas]
    assert "not finite at α = -1, -0.875" in found.note


@pytest.mark.parametrize("mode", MODES)
def test_drawing_a_path_leaves_no_trace(mode):
    a, b, start, train = network(1), network(2), network(3), data(10)
    for model in (a, b):
        cross_entropy(model(train[0]), train[1]).mean().backward()
    before = traces(a), traces(b)
    path(a, b, loss=cross_entropy, train=train, test=data(5), batch_norm=mode, start=start)
    assert_untouched(before[0], a)
    assert_untouched(before[1], b)


def test_models_state_dicts_and_points_are_the_same_ends():
    a, b, train = network(1), network(2), data(10)
    measure = partial(path, loss=cross_entropy, train=train, points=4, span=(0, 1))
    expected = measure(a, b).train_loss
    points = [torch.cat([p.detach().reshape(-1) for p in model.parameters()]) for model in (a, b)]
    assert measure(a.state_dict(), b.state_dict(), model=network(7)).train_loss == expected
    assert measure(*points, model=network(7)).train_loss == expected


class Tied(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.inner = nn.Linear(4, 4).double()
        self.outer = self.inner

    def forward(self, x):
        return self.outer(self.inner(x))


def test_tied_weights_are_one_weight():
    a, b, train = Tied(0), Tied(1), data(10, features=4)
    found = path(a, b, loss=cross_entropy, train=train, points=3, span=(0, 1))
    state = landscape.mixed(a.state_dict(), b.state_dict(), 0.5)
    assert found.train_loss[1] == pytest.approx(
        float(landscape.evaluate(a, state, train, cross_entropy).mean()), rel=1e-12
    )


@pytest.mark.parametrize(("mode", "passes"), [("running", 25), ("batch", 25), ("reestimated", 50)])
def test_a_point_costs_one_forward_pass_and_one_more_for_new_statistics(mode, passes):
    a, b, seen = network(1), network(2), []
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: seen.append(len(inputs[0])) if isinstance(module, nn.Sequential) else None
    )
    try:
        found = path(a, b, loss=cross_entropy, train=data(200), test=data(100, seed=1), batch_norm=mode)
    finally:
        hook.remove()
    examined = 2 * (64 + 64)  # two passes over 64 samples of each data set, once
    assert sum(seen) == 200 * passes + 100 * 25 + examined
    assert found.passes == pytest.approx(passes / 3)
    assert found.test_passes == pytest.approx(25 / 3)


def test_a_path_survives_its_json():
    found = path(
        network(1), network(2), loss=cross_entropy, train=data(10), start=network(3), metrics={"hit": accuracy}
    )
    assert Path.from_json(found.to_json()) == found


def test_models_of_two_architectures_are_refused_by_name():
    wide = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 4)).double()
    with pytest.raises(ValueError, match=r"b: other shapes: 0.weight \(6, 3\) instead of \(5, 3\), .* and 3 more"):
        path(network(1), wide, loss=cross_entropy, train=data())
    short = {name: t for name, t in network(1).state_dict().items() if not name.startswith("4.")} | {
        "head.weight": torch.zeros(1)
    }
    with pytest.raises(ValueError, match=r"a: lacks 4.weight, 4.bias\n.*a: has head.weight, which the model does not"):
        path(short, network(2), model=network(1), loss=cross_entropy, train=data())
    with pytest.raises(ValueError, match=r"a: a point of shape \(3,\) instead of \(54,\)"):
        path(torch.zeros(3), network(2), loss=cross_entropy, train=data())


def test_weights_that_are_not_finite_are_refused():
    broken = network(2)
    broken[4].weight.data[0, 0] = math.nan
    for b in (broken, torch.cat([p.detach().reshape(-1) for p in broken.parameters()])):
        with pytest.raises(ValueError, match=r"b: NaN or infinity in .*: load a checkpoint from before the run"):
            path(network(1), b, loss=cross_entropy, train=data())


def test_parts_that_are_not_interpolated_must_agree():
    a, b = network(1), network(2)
    a[4].bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"a, b: only weights that require gradients are interpolated, .* too: 4.bias"):
        path(a, b, loss=cross_entropy, train=data())


def test_options_that_are_none_are_refused_together():
    state = network(1).state_dict()
    with pytest.raises(ValueError, match=r"(?s)model: expected the architecture.*kind: .*'arc'.*batch_norm: .*'eval'"):
        path(state, state, loss=cross_entropy, train=data(), kind="arc", batch_norm="eval")
    for span, points, message in (
        ((1.0, -1.0), 25, r"expected finite bounds, the lower first, got \(1.0, -1.0\)"),
        ((0.0, 0.0), 25, "expected finite bounds, the lower first"),
        ((0.25, 1.0), 25, "expected a span that contains 0 and 1, where the models are"),
        ((0.0, 1.0), 1, "expected at least 2 points, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            path(network(1), network(2), loss=cross_entropy, train=data(), span=span, points=points)


class Draws(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4).double()

    def forward(self, x):
        return nn.functional.dropout(self.layer(x), 0.5)  # in evaluation too


def test_a_model_that_gives_two_answers_or_a_mean_is_refused():
    with pytest.raises(ValueError, match=r"something draws random numbers in evaluation, such as F.dropout"):
        path(Draws(), Draws(), loss=cross_entropy, train=data())
    with pytest.raises(ValueError, match=r"expected one loss value per example, .* got a scalar"):
        path(network(1), network(2), loss=nn.functional.cross_entropy, train=data())
