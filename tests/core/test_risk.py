"""Risk: sums over samples, whatever the batches and ranks; and no trace of a measurement."""

import copy

import pytest
import torch
from torch import nn

from largebatch import core
from largebatch.core import Risk, accuracy, cross_entropy, swap_batchnorm
from ranks import run_ranks


def problem(seed=0, samples=10):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 4)).double()
    swap_batchnorm(model, 4)
    model(torch.randn(16, 3, dtype=torch.float64))
    return model, (torch.randn(samples, 3, dtype=torch.float64), torch.randint(4, (samples,)))


def full_batch(model, data):
    """Value and gradient of the mean over all samples at once, by plain autograd."""
    twin = copy.deepcopy(model).eval()
    loss = cross_entropy(twin(data[0]), data[1]).mean()
    return loss.item(), torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(twin.parameters()))])


@pytest.mark.parametrize("batch_size", [10, 5, 4, 3, 1])  # 4 + 4 + 2, 3 + 3 + 3 + 1
def test_value_and_gradient_are_those_of_the_full_batch(batch_size):
    model, data = problem()
    risk = Risk(model, cross_entropy, data, batch_size=batch_size)
    value, gradient = full_batch(model, data)
    assert risk.value() == pytest.approx(value, rel=1e-13)
    torch.testing.assert_close(risk.gradient(), gradient, rtol=1e-12, atol=1e-14)


def weighted_loss(outputs, targets):
    values = cross_entropy(outputs, targets)
    return values[:, None].expand(-1, 2), torch.stack([targets.double(), torch.ones_like(values)], dim=1)


def test_weights_count_as_they_are_given():
    model, data = problem()
    twin = copy.deepcopy(model).eval()
    values = cross_entropy(twin(data[0]), data[1])
    weights = data[1].double() + 1
    loss = (values * weights).sum() / weights.sum()
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(twin.parameters()))])
    risk = Risk(model, weighted_loss, data, batch_size=3)
    assert risk.value() == pytest.approx(loss.item(), rel=1e-13)
    torch.testing.assert_close(risk.gradient(), expected, rtol=1e-12, atol=1e-14)


def risk_on_a_rank():
    with core.world_from_environment(torch.device("cpu")) as world:
        model, data = problem()
        risk = Risk(model, cross_entropy, data, batch_size=3, world=world)
        return risk.value(), risk.gradient()


def test_unequal_ranks_change_nothing():
    value, gradient = full_batch(*problem())
    for found in run_ranks(risk_on_a_rank, 3):
        assert found[0] == pytest.approx(value, rel=1e-13)
        torch.testing.assert_close(found[1], gradient, rtol=1e-12, atol=1e-14)


def test_per_example_gradients_average_to_the_gradient():
    model, data = problem()
    risk = Risk(model, cross_entropy, data)
    per_example = risk.per_example_gradients(*data)
    assert per_example.shape == (10, risk.dimension)
    torch.testing.assert_close(per_example.mean(0), full_batch(model, data)[1], rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="but 1 mix them in this mode"):
        Risk(model, cross_entropy, data, batch_norm="batch").per_example_gradients(*data)


def plain_problem():
    """The same with torch's own batch norm."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)).double()
    return model, (torch.randn(10, 3, dtype=torch.float64), torch.randint(4, (10,)))


@pytest.mark.parametrize("mode", ["running", "batch", "reestimated"])
@pytest.mark.parametrize("make", [problem, plain_problem])
def test_a_measurement_leaves_no_trace(make, mode):
    model, data = make()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    buffers = dict(model.named_buffers())
    state = copy.deepcopy(model.state_dict())
    rng = torch.get_rng_state()
    risk = Risk(model, cross_entropy, data, batch_norm=mode, batch_size=5)
    risk.value()
    risk.gradient()
    assert model.training
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(buffer is buffers[name] for name, buffer in model.named_buffers())


def value_by_hand(model, data, mode, batches):
    """The mean loss with batch norm written out: batch statistics, or their sample-weighted mean over the batches."""
    first, norm, _, last = (model[i] for i in range(4))
    hidden = [first(x) for x in data[0].split(batches)]
    if mode == "batch":
        statistics = [(h.mean(0), h.var(0, correction=0)) for h in hidden]
    else:
        n = sum(map(len, hidden))
        mean = sum(h.mean(0) * len(h) for h in hidden) / n
        var = sum(h.var(0) * len(h) for h in hidden) / n
        statistics = [(mean, var)] * len(hidden)
    outputs = [
        last(torch.tanh((h - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias))
        for h, (mean, var) in zip(hidden, statistics, strict=True)
    ]
    return cross_entropy(torch.cat(outputs), data[1]).mean().item()


@pytest.mark.parametrize("mode", ["batch", "reestimated"])
def test_the_batch_norm_mode_is_part_of_the_number(mode):
    model, data = plain_problem()
    risk = Risk(model, cross_entropy, data, batch_norm=mode, batch_size=4)
    assert risk.value() == pytest.approx(value_by_hand(model, data, mode, 4), rel=1e-12)
    assert abs(risk.value() - Risk(model, cross_entropy, data, batch_size=4).value()) > 1e-3


@pytest.mark.parametrize("mode", ["batch", "reestimated"])
def test_a_last_batch_of_one_sample_joins_its_neighbour(mode):
    model, data = plain_problem()
    value = Risk(model, cross_entropy, data, batch_norm=mode, batch_size=3).value()  # 3 + 3 + 4, not 3 + 3 + 3 + 1
    first, norm, _, last = model
    hidden = first(data[0]).split([3, 3, 4])
    statistics = [(h.mean(0), h.var(0, correction=int(mode == "reestimated"))) for h in hidden]
    if mode == "reestimated":
        statistics = [
            tuple(sum(n * s[i] for n, s in zip((0.3, 0.3, 0.4), statistics, strict=True)) for i in (0, 1))
        ] * 3
    outputs = [
        last(torch.tanh((h - mean) / (var + norm.eps).sqrt()))
        for h, (mean, var) in zip(hidden, statistics, strict=True)
    ]
    assert value == pytest.approx(cross_entropy(torch.cat(outputs), data[1]).mean().item(), rel=1e-12)


def test_reestimated_statistics_follow_the_weights():
    model, data = plain_problem()
    risk = Risk(model, cross_entropy, data, batch_norm="reestimated", batch_size=4)
    before = risk.value()
    with risk.displaced() as move:
        move(0.5 * risk.point())
        assert risk.value() == pytest.approx(value_by_hand(model, data, "reestimated", 4), rel=1e-12)
    assert risk.value() == before


def reestimated_on_a_rank():
    with core.world_from_environment(torch.device("cpu")) as world:
        model, data = plain_problem()
        return Risk(model, cross_entropy, data, batch_norm="reestimated", batch_size=4, world=world).value()


def test_statistics_are_reestimated_over_all_ranks():
    model, data = plain_problem()
    hidden = model[0](data[0])  # 3 ranks have 3, 3 and 4 of the 10 samples, one batch each
    parts = hidden[:3], hidden[3:6], hidden[6:]
    mean = sum(part.mean(0) * len(part) for part in parts) / 10
    var = sum(part.var(0) * len(part) for part in parts) / 10
    _, norm, _, last = model
    outputs = last(torch.tanh((hidden - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias))
    expected = cross_entropy(outputs, data[1]).mean().item()
    assert run_ranks(reestimated_on_a_rank, 3) == pytest.approx([expected] * 3, rel=1e-12)


def test_variables_are_chosen_by_name():
    model, data = problem()
    risk = Risk(model, cross_entropy, data, parameters=["0.*", "4.bias"])
    assert risk.names == ["0.weight", "0.bias", "4.bias"]
    whole = Risk(model, cross_entropy, data).gradient()
    torch.testing.assert_close(risk.gradient(), torch.cat([whole[:20], whole[-4:]]))
    assert risk.dimension == len(risk.point()) == 24
    with pytest.raises(
        ValueError, match=r"parameters: no name matches 'conv\.\*': expected names or patterns of 0\.weight"
    ):
        Risk(model, cross_entropy, data, parameters="conv.*")


def test_metrics_and_loss_are_means_over_all_samples():
    model, data = problem()
    twin = copy.deepcopy(model).eval()
    expected = (twin(data[0]).argmax(1) == data[1]).double().mean()
    found = Risk(model, cross_entropy, data, batch_size=3).means({"accuracy": accuracy})
    assert found["accuracy"] == pytest.approx(float(expected), rel=1e-12)
    assert found["loss"] == pytest.approx(full_batch(model, data)[0], rel=1e-12)


def test_another_dtype_is_measured_on_a_copy():
    model, data = problem()
    single = copy.deepcopy(model).float()
    risk = Risk(single, cross_entropy, data, dtype=torch.float64)
    assert risk.dtype is torch.float64
    assert next(single.parameters()).dtype is torch.float32
    assert risk.value() == pytest.approx(full_batch(single.double(), data)[0], rel=1e-13)


def test_a_subset_is_a_sample_without_replacement():
    model, data = problem(samples=40)
    risk = Risk(model, cross_entropy, data, parameters="0.*")
    part = risk.subset(7, seed=3)
    assert part.samples == 7
    assert part.names == risk.names
    assert len({tuple(row) for row in part.data[0].tolist()} & {tuple(row) for row in data[0].tolist()}) == 7
    assert torch.equal(part.data[0], risk.subset(7, seed=3).data[0])
    assert not torch.equal(part.data[0], risk.subset(7, seed=4).data[0])
    assert risk.subset(40) is risk
    with pytest.raises(ValueError, match="samples: expected at least 1, got 0"):
        risk.subset(0)


class Counted(torch.utils.data.Dataset):
    """Counts how often an item is read."""

    def __init__(self, data):
        self.data, self.reads = data, 0

    def __len__(self):
        return len(self.data[0])

    def __getitem__(self, index):
        self.reads += 1
        return self.data[0][index], self.data[1][index]


def test_a_data_set_is_read_once_and_gives_what_tensors_give():
    model, data = problem()
    counted = Counted(data)
    risk = Risk(model, cross_entropy, counted, batch_size=4)
    values = [risk.value() for _ in range(3)]
    assert values == [values[0]] * 3
    assert values[0] == pytest.approx(full_batch(model, data)[0], rel=1e-13)
    assert counted.reads <= 2 * len(counted)
    part = risk.subset(4)
    assert part.value() == pytest.approx(full_batch(model, [torch.stack(t) for t in zip(*part.data, strict=True)])[0])


def test_a_pass_takes_more_samples_where_a_gradient_to_be_added_up_outweighs_the_activations():
    targets = torch.randint(10, (2000,), generator=torch.Generator().manual_seed(0))
    images = torch.randn(2000, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    filters = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    convolutional = nn.Sequential(filters, nn.Linear(8, 10))  # 170 parameters, 602 activations an example
    wide = nn.Sequential(nn.Flatten(), nn.Linear(36, 400), nn.Linear(400, 10))  # 18,810 and 446
    sizes = {}
    for name, model in (("convolutional", convolutional), ("wide", wide)):
        risk = Risk(model, cross_entropy, (images, targets), batch_size=2000)
        with risk.measuring():
            sizes[name] = [len(inputs) for inputs, _ in risk.pieces(100, outweighed=6.0)]
            assert risk.piece_size(100, outweighed=0.0) == 100
    assert sizes == {"convolutional": [100] * 20, "wide": [253] * 7 + [229]}


def test_passes_are_counted_by_operations():
    model, data = problem()
    risk = Risk(model, cross_entropy, data, batch_size=3)
    risk.value()
    risk.gradient()
    assert risk.passes == pytest.approx(4 / 3)


class AlwaysDropout(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5)


class MovingAverage(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(4, dtype=torch.float64))

    def forward(self, x):
        self.average += x.detach().mean(0)
        return x


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: model.append(AlwaysDropout()), "expected the same loss from two passes .* such as F.dropout"),
        (lambda model: model.append(MovingAverage()), r"a pass moves the buffers 5\.average: guard their update"),
        (lambda model: nn.init.constant_(model[0].bias, torch.nan), r"expected finite weights, got NaN .* in 0\.bias"),
        (lambda model: nn.init.constant_(model[4].weight, 1e308), "expected a finite loss at the weights"),
    ],
)
def test_what_would_make_a_number_meaningless_is_refused(spoil, message):
    model, data = problem()
    spoil(model)
    state = copy.deepcopy(model.state_dict())
    for measure in (Risk.value, Risk.gradient):
        with pytest.raises(ValueError, match=message):
            measure(Risk(model, cross_entropy, data))
    assert all(torch.equal(v.nan_to_num(), state[k].nan_to_num()) for k, v in model.state_dict().items())
    assert model.training


def test_a_mean_instead_of_values_is_refused():
    model, data = problem()
    with pytest.raises(ValueError, match="expected one loss value per example"):
        Risk(model, nn.functional.cross_entropy, data).value()


def test_mistakes_are_named():
    model, data = problem()
    with pytest.raises(ValueError, match="batch_size: expected at least 1 sample, got 0"):
        Risk(model, cross_entropy, data, batch_size=0)
    with pytest.raises(ValueError, match="data: expected at least one sample, got none"):
        Risk(model, cross_entropy, (data[0][:0], data[1][:0]))
    with pytest.raises(ValueError, match="at least one parameter that requires a gradient"):
        Risk(nn.Flatten(), cross_entropy, data)
