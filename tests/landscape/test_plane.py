"""Planes: each cell is the loss at its own coordinates, the model itself is one of them, and a kill loses nothing.

Each test named "not ..." is a silent wrong answer of a published tool.
"""

import math
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from landscape.landscapes import (
    Function,
    assert_untouched,
    convolutional,
    data,
    network,
    nothing,
    output_is_loss,
    traces,
)
from largebatch.core import Risk, accuracy, cross_entropy, world_from_environment
from largebatch.landscape import Plane, plane
from largebatch.landscape._directions import cosine, random_directions
from largebatch.tasks._quadratic import Bowl
from oracles import landscape
from ranks import CONTEXT, run_ranks

MODES = ["running", "batch", "reestimated"]
E1, E2 = torch.eye(2, dtype=torch.float64)


def function_risk(function, start=(0.0, 0.0), samples=3):
    return Risk(Function(start, function), output_is_loss, nothing(samples))


def small_plane(risk, **options):
    return plane(risk, **({"directions": (E1, E2), "points": (5, 7)} | options))


def test_a_quadratic_has_the_losses_of_its_closed_form():
    source = torch.Generator().manual_seed(0)
    root, first, second, start = (
        torch.randn(6, 6, generator=source, dtype=torch.float64),
        *torch.randn(3, 6, generator=source, dtype=torch.float64),
    )
    hessian = root @ root.T - 2.0 * torch.eye(6, dtype=torch.float64)
    shifts = torch.randn(10, 6, generator=source, dtype=torch.float64)
    risk = Risk(Bowl(hessian, start), output_is_loss, (shifts, torch.zeros(10)), batch_size=3)
    found = plane(
        risk, directions=(first, second), spans=((-1.0, 1.0), (-0.5, 2.5)), points=(5, 7),
        test=(shifts[:4], torch.zeros(4)),
    )  # fmt: skip
    assert (len(found.xs), len(found.ys)) == (5, 7)
    for i, s in enumerate(found.xs):
        for j, t in enumerate(found.ys):
            x = start + s * first + t * second
            value = float(x @ hessian @ x) / 2
            assert found.train_loss[i][j] == pytest.approx(value + float(shifts.mean(0) @ x), rel=1e-11, abs=1e-12)
            assert found.test_loss[i][j] == pytest.approx(value + float(shifts[:4].mean(0) @ x), rel=1e-11, abs=1e-12)
    assert found.cosine == pytest.approx(float(first @ second / first.norm() / second.norm()), rel=1e-12)
    assert found.lengths == pytest.approx((float(first.norm()), float(second.norm())), rel=1e-12)


def test_not_every_other_row_shifted_by_one_cell():
    found = small_plane(function_risk(lambda x: 10 * x[0] + x[1]))
    expected = [[10 * s + t for t in found.ys] for s in found.xs]
    np.testing.assert_allclose(found.train_loss, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("points", [(5, 7), (4, 6), (2, 2), 3])
@pytest.mark.parametrize("mode", MODES)
def test_not_a_plane_that_misses_the_model(mode, points):
    risk = Risk(network(), cross_entropy, data(), batch_norm=mode, batch_size=4)
    found = plane(risk, points=points, spans=((-1.0, 1.0), (-0.5, 2.0)))
    assert found.train_loss[found.xs.index(0.0)][found.ys.index(0.0)] == risk.value()
    assert {-1.0, 1.0} <= set(found.xs)
    assert {-0.5, 2.0} <= set(found.ys)


def test_zero_may_be_the_end_of_a_range():
    found = small_plane(function_risk(lambda x: x.sum()), spans=((-1.0, 0.0), (0.0, 1.0)))
    assert (found.xs[-1], found.ys[0]) == (0.0, 0.0)
    assert found.train_loss[-1][0] == 0.0


@pytest.mark.parametrize("make", [network, convolutional])
def test_not_normalised_per_tensor_but_per_filter_and_once(make):
    model = make()
    risk = Risk(model, cross_entropy, data())
    norms = landscape.filter_norms(model)
    for direction in random_directions(risk, "filter", seed=0):
        moved = make()
        nn.utils.vector_to_parameters(direction, moved.parameters())
        assert landscape.filter_norms(moved).keys() == norms.keys()
        for name, found in landscape.filter_norms(moved).items():
            assert found == pytest.approx(norms[name], rel=1e-12), name
        for name, parameter in moved.named_parameters():
            assert name in norms or torch.count_nonzero(parameter) == 0, name  # biases and norms stay


def test_layer_normalisation_gives_each_matrix_the_length_of_its_weights():
    model = convolutional()
    direction, _ = random_directions(Risk(model, cross_entropy, data()), "layer", seed=0)
    moved = convolutional()
    nn.utils.vector_to_parameters(direction, moved.parameters())
    for (name, parameter), weight in zip(moved.named_parameters(), model.parameters(), strict=True):
        expected = float(weight.detach().norm()) if name in landscape.filter_norms(model) else 0.0
        assert float(parameter.detach().norm()) == pytest.approx(expected, rel=1e-12), name


def test_a_filter_of_zeros_does_not_move():
    model = network()
    model[0].weight.data[2] = 0.0
    for direction in random_directions(Risk(model, cross_entropy, data()), "filter", seed=0):
        assert torch.isfinite(direction).all()
        assert torch.count_nonzero(direction[6:9]) == 0


def wide():
    torch.manual_seed(0)
    return Risk(nn.Linear(100, 80, bias=False).double(), cross_entropy, data(features=100, classes=80))


def test_not_parallel_directions_nor_all_positive_ones():
    risk = wide()
    plain = random_directions(risk, "none", seed=0)
    assert abs(cosine(*plain)) < 1e-14  # orthogonal before they are normalised
    first, second = random_directions(risk, "filter", seed=0)
    assert abs(cosine(first, second)) < 4 / math.sqrt(8000)
    for direction in (first, second):
        assert abs(float((direction > 0).double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(8000)
    found = plane(risk, points=2, spans=(0.0, 1.0))
    assert found.cosine == pytest.approx(cosine(first, second), rel=1e-12)


def test_a_seed_names_the_directions():
    risk = wide()
    same = [random_directions(risk, "filter", seed=seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(same[0], same[1])
    assert abs(cosine(same[0], same[2])) < 4 / math.sqrt(8000)


def test_not_nan_from_directions_that_move_running_variances():
    risk = Risk(network(), cross_entropy, data(), batch_size=4)
    found = plane(risk, spans=(-3.0, 3.0), seed=1)
    assert np.isfinite(found.train_loss).all()
    assert found.note == "every cell uses the model's own running statistics"


def test_not_the_mean_where_the_loss_is_nan_nor_noise_on_the_maximum():
    def function(x):
        return torch.where(x[1] > 0.9, torch.inf, (0.5 - x[0]).log()) + x[1]

    found = small_plane(function_risk(function))
    for i, s in enumerate(found.xs):
        for j, t in enumerate(found.ys):
            value = found.train_loss[i][j]
            if t > 0.9:
                assert value == math.inf
            elif s > 0.5:
                assert math.isnan(value)
            else:
                expected = math.log(0.5 - s) + t if s < 0.5 else -math.inf
                assert value == pytest.approx(expected, rel=1e-12)
    assert found.note == f"not finite in {int((~np.isfinite(found.train_loss)).sum())} of 35 cells"


@pytest.mark.parametrize("mode", MODES)
def test_not_a_changed_model(mode):
    model = network()
    cross_entropy(model(data()[0]), data()[1]).mean().backward()
    model[0].bias.requires_grad_(False)
    before = traces(model)
    plane(Risk(model, cross_entropy, data(), batch_norm=mode, batch_size=4), points=3, test=data(5))
    assert_untouched(before, model)


def test_statistics_taken_anew_serve_both_data_sets():
    model, train, test = network(), data(10), data(7, seed=1)
    found = plane(Risk(model, cross_entropy, train, batch_norm="reestimated"), points=3, test=test)
    first, second = random_directions(Risk(model, cross_entropy, train), "filter", seed=0)
    moved = network()
    origin = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    for i, s in enumerate(found.xs):
        for j, t in enumerate(found.ys):
            nn.utils.vector_to_parameters(origin + s * first + t * second, moved.parameters())
            state = landscape.with_statistics_of(moved, moved.state_dict(), train[0])
            for values, part in ((found.train_loss, train), (found.test_loss, test)):
                expected = landscape.evaluate(moved, state, part, cross_entropy).mean()
                assert values[i][j] == pytest.approx(float(expected), rel=1e-11)


@pytest.mark.parametrize("batch_size", [4, 3, 1])  # 4 + 4 + 2, 3 + 3 + 4
def test_ragged_batches_change_nothing(batch_size):
    whole, parts = (
        plane(Risk(network(), cross_entropy, data(), batch_size=size), points=3, metrics={"accuracy": accuracy})
        for size in (10, batch_size)
    )
    np.testing.assert_allclose(parts.train_loss, whole.train_loss, rtol=1e-12)
    np.testing.assert_allclose(parts.train_stderr, whole.train_stderr, rtol=1e-12)
    np.testing.assert_allclose(parts.train_metrics["accuracy"], whole.train_metrics["accuracy"], rtol=1e-12)


def plane_on_a_rank(file):
    with world_from_environment(torch.device("cpu")) as world:
        risk = Risk(network(), cross_entropy, data(), batch_size=3, world=world)
        options = {"points": (3, 5), "test": data(5, seed=1), "resume": file}
        return plane(risk, **options), plane(risk, **options).passes


def test_unequal_ranks_change_nothing_and_share_a_file(tmp_path):
    alone = plane(Risk(network(), cross_entropy, data()), points=(3, 5), test=data(5, seed=1))
    for found, passes_again in run_ranks(plane_on_a_rank, 2, tmp_path / "plane.npz"):
        np.testing.assert_allclose(found.train_loss, alone.train_loss, rtol=1e-12)
        np.testing.assert_allclose(found.test_loss, alone.test_loss, rtol=1e-12)
        assert passes_again == pytest.approx(1 / 3)  # the model's own cell alone


@pytest.mark.parametrize(("mode", "passes"), [("running", 35), ("batch", 35), ("reestimated", 70)])
def test_a_cell_costs_one_forward_pass_and_one_more_for_new_statistics(mode, passes):
    model, seen = network(), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    risk = Risk(model, cross_entropy, data(200), batch_norm=mode)
    found = plane(risk, points=(5, 7), test=data(100, seed=1))
    assert sum(seen) == 200 * passes + 100 * 35 + 2 * (64 + 64)  # twice 64 samples of each data set, once
    assert found.passes == risk.passes == pytest.approx(passes / 3)
    assert found.test_passes == pytest.approx(35 / 3)


def test_a_plane_of_some_parameters_leaves_the_others():
    model = network()
    risk = Risk(model, cross_entropy, data(), parameters="4.*")
    found = plane(risk, points=3)
    first, second = random_directions(risk, "filter", seed=0)
    moved = network()
    nn.utils.vector_to_parameters(risk.point() + found.xs[0] * first + found.ys[2] * second, moved[4].parameters())
    assert found.train_loss[0][2] == pytest.approx(Risk(moved, cross_entropy, data()).value(), rel=1e-12)


def test_the_plane_through_three_models_holds_their_losses():
    models = [network(seed) for seed in range(3)]
    risks = [Risk(model, cross_entropy, data(), batch_norm="reestimated") for model in models]
    a, b, c = (risk.point() for risk in risks)
    found = plane(risks[0], directions=(b - a, c - a), spans=(0.0, 1.0), points=2)
    expected = [risk.value() for risk in risks]
    cells = [found.train_loss[i][j] for i, j in ((0, 0), (1, 0), (0, 1))]
    assert cells == pytest.approx(expected, rel=1e-12)
    assert (found.normalisation, found.seed) == ("none", -1)


def slow_loss(outputs, targets):
    time.sleep(0.02)
    return cross_entropy(outputs, targets)


def draw_slowly(file):
    torch.set_num_threads(1)
    plane(Risk(network(), slow_loss, data()), points=7, resume=file)


def test_a_killed_plane_goes_on_where_it_stood(tmp_path):
    file = tmp_path / "folder" / "plane.npz"
    child = CONTEXT.Process(target=draw_slowly, args=(file,))
    child.start()
    deadline = time.monotonic() + 60
    done = 0
    while done < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
        if file.exists():
            with np.load(file) as content:
                done = int(content["computed"].sum())
    child.kill()  # SIGKILL
    child.join()
    with np.load(file) as content:
        done = int(content["computed"].sum())
        assert 5 <= done < 49
        np.testing.assert_array_equal(np.isnan(content["table"][:, :, 0, 0]), ~content["computed"])
    calls = []

    def counting_loss(outputs, targets):
        calls.append(1)
        return cross_entropy(outputs, targets)

    found = plane(Risk(network(), counting_loss, data()), points=7, resume=file)
    assert len(calls) == 2 + 1 + 49 - done  # examined twice; the model's own cell; what was missing
    whole = plane(Risk(network(), cross_entropy, data()), points=7)
    assert (found.train_loss, found.train_stderr) == (whole.train_loss, whole.train_stderr)


def test_a_nan_that_was_computed_is_not_computed_again(tmp_path):
    calls = []

    def function(x):
        calls.append(1)
        return (0.5 - x[0]).log()

    for _ in range(2):
        calls.clear()
        found = small_plane(function_risk(function), resume=tmp_path / "plane.npz")
    assert math.isnan(found.train_loss[-1][0])
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": 1}, "weights, directions"),
        ({"seed": 1}, "directions"),
        ({"points": 5}, "grid"),
        ({"spans": (-2.0, 2.0)}, "grid"),
        ({"samples": 11}, "numbers of samples"),
        ({"metrics": {"accuracy": accuracy}}, "metrics"),
        ({"batch_norm": "batch"}, "batch-norm mode"),
        ({"dtype": torch.float32}, "weights, directions, dtype"),
    ],
)
def test_a_file_of_another_plane_is_refused(tmp_path, change, named):
    def draw(model=0, samples=10, batch_norm="running", dtype=None, **options):
        risk = Risk(network(model), cross_entropy, data(samples), batch_norm=batch_norm, dtype=dtype)
        return plane(risk, resume=tmp_path / "plane.npz", **({"points": 3} | options))

    draw()
    content = (tmp_path / "plane.npz").read_bytes()
    with pytest.raises(ValueError, match=f"holds the cells of another plane, with other {named}; name another file"):
        draw(**change)
    assert (tmp_path / "plane.npz").read_bytes() == content


def test_a_file_of_other_data_of_the_same_size_is_refused(tmp_path):
    draw = partial(plane, points=3, resume=tmp_path / "plane.npz")
    draw(Risk(network(), cross_entropy, data(seed=0)))
    with pytest.raises(ValueError, match=r"its cell of the model itself holds .*: other data or another loss"):
        draw(Risk(network(), cross_entropy, data(seed=1)))


@pytest.mark.parametrize("content", [b"something else", b"PK\x03\x04 cut short"])
def test_a_file_that_is_none_of_ours_is_refused_and_kept(tmp_path, content):
    (tmp_path / "plane.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"plane.npz: expected the cells of a plane, got .*; name another file"):
        plane(Risk(network(), cross_entropy, data()), points=3, resume=tmp_path / "plane.npz")
    assert (tmp_path / "plane.npz").read_bytes() == content


def test_a_plane_survives_its_json():
    found = plane(Risk(network(), cross_entropy, data()), points=3, test=data(5), metrics={"accuracy": accuracy})
    assert Plane.from_json(found.to_json()) == found


def test_directions_that_span_no_plane_are_refused():
    risk = function_risk(lambda x: x.square().sum())
    for directions, message in (
        ((E1, 2 * E1), "expected two that span a plane, got lengths 1 and 2 with cosine 1;"),
        ((E1, 0 * E1), "expected two that span a plane, got lengths 1 and 0 with cosine nan;"),
        ((E1, torch.zeros(3)), r"expected 2 of shape \(2,\), got \[\(2,\), \(3,\)\]"),
        ((E1,), r"expected 2 of shape \(2,\), got \[\(2,\)\]"),
        ((E1, math.nan * E2), "expected finite entries, got NaN or infinity"),
        (None, 'biases and norm parameters do not move unless normalisation="none"'),  # the weights are one vector
    ):
        with pytest.raises(ValueError, match=message):
            plane(risk, directions=directions)


def test_options_that_are_none_are_refused_together():
    with pytest.raises(ValueError, match=r"(?s)normalisation: .*'row'.*spans\[0\]: expected finite.*spans\[1\]: .* 0,"):
        plane(
            function_risk(lambda x: x.sum()), spans=((1.0, -1.0), (0.5, 1.0)), points=3, normalisation="row",
            directions=(E1, E2),
        )  # fmt: skip


def test_a_model_that_cannot_be_measured_is_refused():
    broken = network()
    broken[4].weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"expected finite weights, got NaN or infinity in 4.weight"):
        plane(Risk(broken, cross_entropy, data()), points=3)
    with pytest.raises(ValueError, match=r"expected one loss value per example, .* got a scalar"):
        plane(Risk(network(), nn.functional.cross_entropy, data()), points=3)
