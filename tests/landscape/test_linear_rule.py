"""The linear rule: 0 where its assumption holds, the closed form of a quadratic, and torch's own SGD on a network."""

import math

import pytest
import torch
from torch import nn

from landscape.landscapes import Function, assert_untouched, data, network, nothing, output_is_loss, traces
from largebatch.core import cross_entropy, world_from_environment
from largebatch.landscape import LinearRule, linear_rule
from largebatch.tasks._quadratic import Bowl
from oracles import landscape
from ranks import run_ranks


class Linear(nn.Module):
    """A loss linear in the weights, with another gradient for each sample."""

    def __init__(self, p=5):
        super().__init__()
        self.w = nn.Parameter(torch.randn(p, generator=torch.Generator().manual_seed(0), dtype=torch.float64))

    def forward(self, inputs):
        return inputs @ self.w


@pytest.mark.parametrize(("k", "batch_size"), [(1, 3), (4, 3), (8, 5)])
def test_a_linear_loss_obeys_the_rule_exactly(k, batch_size):
    rows = data(40, features=5)[0]
    found = linear_rule(Linear(), output_is_loss, (rows, torch.zeros(40)), batch_size=batch_size, k=k, lr=0.3)
    assert max(found.ratios) < 1e-14
    assert min(found.movements) > 0.01


@pytest.mark.parametrize("k", [1, 2, 8, 30])
def test_a_quadratic_has_its_closed_form(k):
    source = torch.Generator().manual_seed(1)
    root = torch.randn(6, 6, generator=source, dtype=torch.float64)
    hessian = root @ root.T + torch.eye(6, dtype=torch.float64)
    start, slope = torch.randn(2, 6, generator=source, dtype=torch.float64)
    rate = 0.3 / float(torch.linalg.eigvalsh(hessian)[-1])
    found = linear_rule(
        Bowl(hessian, start), output_is_loss, (slope.expand(60, 6), torch.zeros(60)), batch_size=2, k=k, lr=rate,
        repeats=2,
    )  # fmt: skip
    expected = landscape.linear_rule_on_a_quadratic(hessian, slope, start, rate, k)
    assert found.ratios == pytest.approx([expected] * 2, rel=1e-10, abs=1e-14)
    assert found.ratio.value == pytest.approx(expected, rel=1e-10, abs=1e-14)


def recorded(seen):
    """Cross-entropy whose targets number the samples, so that the test sees which ones were drawn."""
    labels = data(40)[1]

    def loss(outputs, targets):
        seen.append(targets.clone())
        return cross_entropy(outputs, labels[targets])

    return loss


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.0, 0.1), (0.9, 0.0), (0.9, 0.1)])
def test_a_network_moves_as_under_torchs_sgd(momentum, weight_decay):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)).double()
    inputs, labels = data(40)
    seen = []
    found = linear_rule(
        model, recorded(seen), (inputs, torch.arange(40)), batch_size=7, k=4, lr=0.05, momentum=momentum,
        weight_decay=weight_decay, repeats=3,
    )  # fmt: skip
    draws = [seen[2 + 8 * i : 2 + 8 * i + 4] for i in range(3)]  # after two looks: 4 for the large step, 4 small steps
    for ratio, drawn in zip(found.ratios, draws, strict=True):
        batches = [(inputs[chosen], labels[chosen]) for chosen in drawn]
        expected = landscape.linear_rule_by_torch(
            model, cross_entropy, batches, rate=0.05, momentum=momentum, weight_decay=weight_decay
        )
        assert ratio == pytest.approx(expected, rel=1e-10)
        assert len(torch.cat(drawn).unique()) == 28  # without replacement
    assert not torch.equal(draws[0][0], draws[1][0])


def test_a_constant_gradient_obeys_the_rule_with_momentum_too():
    found = linear_rule(
        Function([1.0, -2.0], lambda x: 3 * x[0] - x[1]), output_is_loss, nothing(40), batch_size=2, k=5, lr=0.1,
        momentum=0.9,
    )  # fmt: skip
    assert max(found.ratios) < 1e-14


def test_one_step_is_one_step():
    found = linear_rule(network(), cross_entropy, data(40), batch_size=8, k=1, lr=0.1)
    assert found.ratios == (0.0,) * 5


@pytest.mark.parametrize("mode", ["batch", "running"])
def test_measuring_leaves_no_trace(mode):
    model = network()
    cross_entropy(model(data()[0]), data()[1]).mean().backward()
    before = traces(model)
    found = linear_rule(model, cross_entropy, data(40), batch_size=5, k=4, lr=0.1, batch_norm=mode)
    assert found.batch_norm == mode
    assert_untouched(before, model)


def test_the_interval_is_students_over_draws():
    found = linear_rule(network(), cross_entropy, data(40), batch_size=5, k=4, lr=0.1, repeats=3)
    mean = sum(found.ratios) / 3
    stderr = math.sqrt(sum((ratio - mean) ** 2 for ratio in found.ratios) / 2 / 3)
    assert found.ratio.value == pytest.approx(mean)
    assert found.ratio.high - found.ratio.value == pytest.approx(4.302653 * stderr, rel=1e-6)  # t of 2 degrees
    ratios = [d / m for d, m in zip(found.differences, found.movements, strict=True)]
    assert found.ratios == pytest.approx(ratios)


def rule_on_a_rank():
    with world_from_environment(torch.device("cpu")) as world:
        return linear_rule(
            network(), cross_entropy, data(40), batch_size=5, k=4, lr=0.1, repeats=3, world=world
        )  # fmt: skip


def test_ranks_share_the_draws_and_change_nothing():
    alone = linear_rule(network(), cross_entropy, data(40), batch_size=5, k=4, lr=0.1, repeats=3)
    for found in run_ranks(rule_on_a_rank, 2):
        assert found.ratios == pytest.approx(alone.ratios, rel=1e-12)
        assert found.ratio.low == pytest.approx(alone.ratio.low, rel=1e-12)


def test_a_draw_costs_its_samples_twice():
    found = linear_rule(network(), cross_entropy, data(40), batch_size=5, k=4, lr=0.1, repeats=3)
    assert found.passes == pytest.approx(3 * 2 * 20 / 40)


def test_the_seed_names_the_draws():
    first, again, other = (
        linear_rule(network(), cross_entropy, data(40), batch_size=5, k=4, lr=0.1, seed=seed).ratios
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_no_movement_and_divergence_have_no_mean():
    still = linear_rule(Bowl(torch.eye(2).double(), torch.zeros(2).double()), output_is_loss,
                        (torch.zeros(9, 2), torch.zeros(9)), batch_size=2, k=2, lr=0.1)  # fmt: skip
    assert all(map(math.isnan, still.ratios))
    assert still.ratio.note.startswith("5 of 5 draws moved nowhere or left the finite numbers")
    wild = linear_rule(
        Function([2.0], lambda x: x.pow(4).sum()), output_is_loss, nothing(40), batch_size=2, k=20, lr=9.0
    )
    assert math.isnan(wild.ratio.value)
    assert not any(map(math.isfinite, wild.movements))


def test_a_result_survives_its_json():
    found = linear_rule(network(), cross_entropy, data(40), batch_size=5, k=4, lr=0.1)
    assert LinearRule.from_json(found.to_json()) == found


def test_options_out_of_range_are_refused_together():
    with pytest.raises(
        ValueError, match=r"(?s)batch_size: .* got 0.*k: .* got 0.*lr: .* got -1.*momentum: .* got 1"
    ) as e:
        linear_rule(
            network(), cross_entropy, data(40), batch_size=0, k=0, lr=-1, momentum=1, weight_decay=-1, repeats=0,
            batch_norm="reestimated",
        )  # fmt: skip
    assert "weight_decay: expected 0 or a positive number, got -1" in str(e.value)
    assert "repeats: expected at least 1 draw, got 0" in str(e.value)
    assert "batch_norm: expected batch or running, got 'reestimated'" in str(e.value)
    with pytest.raises(ValueError, match="data: expected 5 batches of 9 samples, 45 in all, got 40; take a smaller k"):
        linear_rule(network(), cross_entropy, data(40), batch_size=9, k=5, lr=0.1)


def test_a_loss_that_is_a_mean_is_refused():
    with pytest.raises(ValueError, match=r"expected one loss value per example, .* got a scalar"):
        linear_rule(network(), nn.functional.cross_entropy, data(40), batch_size=5, k=4, lr=0.1)
