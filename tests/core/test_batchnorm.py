"""Batch norm: ghosts against a per-chunk reference, one move of the running statistics, no trace left."""

import pytest
import torch
from torch import nn

from largebatch import core
from largebatch.core import GhostBatchNorm, World, commit_statistics, swap_batchnorm
from oracles import ghost_batchnorm as oracle
from ranks import run_ranks


def layer_and_input(shape, ghost, seed=0, **options):
    torch.manual_seed(seed)
    plain = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](shape[1]).double()
    with torch.no_grad():
        plain.weight.normal_()
        plain.bias.normal_()
        plain.running_mean.normal_()
        plain.running_var.uniform_(0.5, 2.0)
    return GhostBatchNorm(plain, ghost, **options), torch.randn(shape, dtype=torch.float64, requires_grad=True)


SHAPES = [(64, 3), (50, 3), (49, 5), (33, 2), (7, 4), (64, 3, 4, 5), (41, 2, 3, 3)]


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("ghost", [2, 8, 16, 32, None])
@pytest.mark.parametrize("shape", SHAPES)
def test_ghosts_equal_a_reference_chunk_by_chunk(shape, ghost, folds, monkeypatch):
    monkeypatch.setattr("largebatch.core._batchnorm._prefers_folding", lambda x: folds)
    layer, x = layer_and_input(shape, ghost)
    mean, var = layer.running_mean.clone(), layer.running_var.clone()
    direction = torch.randn_like(x)
    found = layer(x)
    expected = oracle.normalise(x, layer.weight, layer.bias, ghost, layer.eps)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    inputs = [x, layer.weight, layer.bias]
    for a, b in zip(
        torch.autograd.grad((found * direction).sum(), inputs),
        torch.autograd.grad((expected * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    expected_mean, expected_var = oracle.running(x.detach(), mean, var, ghost, 0.1)
    torch.testing.assert_close(layer.running_mean, expected_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.running_var, expected_var, rtol=1e-12, atol=1e-12)
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("folds", [False, True])
def test_statistics_move_once_however_the_batch_is_cut_into_passes(folds, monkeypatch):
    monkeypatch.setattr("largebatch.core._batchnorm._prefers_folding", lambda x: folds)
    layer, x = layer_and_input((53, 3), 8, commit="update")
    model = nn.Sequential(layer)
    mean, var = layer.running_mean.clone(), layer.running_var.clone()
    for start, stop in [(0, 8), (8, 32), (32, 53)]:
        model(x[start:stop])
    torch.testing.assert_close(layer.running_mean, mean)
    commit_statistics(model)
    expected_mean, expected_var = oracle.running(x.detach(), mean, var, 8, 0.1)
    torch.testing.assert_close(layer.running_mean, expected_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.running_var, expected_var, rtol=1e-12, atol=1e-12)
    assert layer.num_batches_tracked == 1


def test_plain_batch_norm_is_one_ghost():
    layer, x = layer_and_input((40, 3, 2, 2), None)
    plain = nn.BatchNorm2d(3).double()
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), plain(x))
    torch.testing.assert_close(layer.running_var, plain.running_var)
    assert layer.state_dict().keys() == plain.state_dict().keys()


def test_swap_keeps_names_parameters_and_shared_layers():
    norm = nn.BatchNorm1d(4)
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 4), norm, nn.ModuleDict({"a": nn.BatchNorm1d(4)}))
    before = {name: id(p) for name, p in model.named_parameters()}
    keys = list(model.state_dict())
    assert swap_batchnorm(model, 8) == 2
    assert {name: id(p) for name, p in model.named_parameters()} == before
    assert list(model.state_dict()) == keys
    assert model[1] is model[3]


def test_cumulative_average_and_missing_statistics_work_as_in_torch():
    x = torch.randn(12, 3, dtype=torch.float64)
    plain = nn.BatchNorm1d(3, momentum=None).double()
    ghost = GhostBatchNorm(nn.BatchNorm1d(3, momentum=None).double(), None)
    for part in (x[:5], x[5:]):
        plain(part)
        ghost(part)
    torch.testing.assert_close(ghost.running_mean, plain.running_mean)
    untracked = GhostBatchNorm(nn.BatchNorm1d(3, track_running_stats=False).double(), None).eval()
    torch.testing.assert_close(untracked(x).mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_frozen_passes_leave_the_statistics_alone():
    layer, x = layer_and_input((16, 3), 4, commit="update")
    model = nn.Sequential(layer)
    model(x)
    pending = core.pending_statistics(model)
    with core.frozen_statistics(model):
        model(x * 3)
    torch.testing.assert_close(core.pending_statistics(model), pending)
    core.discard_statistics(model)
    mean = layer.running_mean.clone()
    commit_statistics(model)
    torch.testing.assert_close(layer.running_mean, mean)


def test_two_passes_before_one_backward_are_allowed():
    layer, x = layer_and_input((16, 3), 4)
    (layer(x) + layer(2 * x)).square().sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("is_ghost", [True, False])
def test_reestimation_is_the_sample_weighted_mean_over_unequal_batches(is_ghost):
    layer, x = layer_and_input((29, 3), None)
    if not is_ghost:
        layer = nn.BatchNorm1d(3).double()
    model = nn.Sequential(layer).eval()
    parts = [x[:4].detach(), x[4:20].detach(), x[20:].detach()]
    core.reestimate(model, model, [(part, len(part)) for part in parts])
    mean = sum(part.mean(0) * len(part) for part in parts) / 29
    var = sum(part.var(0) * len(part) for part in parts) / 29
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, var)
    assert not layer.training
    assert layer.momentum == 0.1
    with pytest.raises(ValueError, match="expected at least one batch, got none"):
        core.reestimate(model, model, [])


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_a_measurement_in_either_mode_leaves_no_trace(mode):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), GhostBatchNorm(nn.BatchNorm1d(3), 4), nn.Dropout(0.5))
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    x = torch.randn(8, 3)
    with core.batch_norm_mode(model, mode):
        torch.testing.assert_close(model(x), model(x))
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_spare_statistics_take_what_is_written():
    model = nn.Sequential(nn.BatchNorm1d(3), GhostBatchNorm(nn.BatchNorm1d(3), 4))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    buffers = dict(model.named_buffers())
    with core.spare_statistics(model):
        model(5 + torch.randn(8, 3))
        assert not torch.equal(model[0].running_mean, state["0.running_mean"])
    assert all(buffer is buffers[name] for name, buffer in model.named_buffers())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("is_ghost", [True, False])
def test_a_graph_outlives_the_mode_it_was_built_in(is_ghost):
    norm = nn.BatchNorm1d(3).double()
    model = nn.Sequential(GhostBatchNorm(norm, 4) if is_ghost else norm)
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    with core.batch_norm_mode(model, "batch"):
        kept = [model(x).pow(3).sum(), model(x).pow(3).sum()]
    model(torch.randn(8, 3, dtype=torch.float64))
    first, second = (torch.autograd.grad(y, x, create_graph=True)[0] for y in kept)
    torch.testing.assert_close(first, second)
    assert torch.autograd.grad(first.square().sum(), x)[0].isfinite().all()


def test_coupled_layers_are_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    assert core.coupled_layers(model) == ["1", "2"]
    assert core.coupled_layers(model.eval()) == ["2"]
    assert core.has_batch_norm(model)
    assert not core.has_batch_norm(nn.Sequential(nn.InstanceNorm1d(3), nn.LayerNorm(3)))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="expected at least 2 samples, got 1: one sample has no variance"):
        GhostBatchNorm(nn.BatchNorm1d(3), 1)
    with pytest.raises(ValueError, match=r"got a batch norm: wrap it in nn\.Sequential"):
        swap_batchnorm(nn.BatchNorm1d(3), 4)
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        GhostBatchNorm(nn.BatchNorm1d(3), 4)(torch.randn(2, 3, 4, 4))


def whole_batch_over_ranks(shares):
    with core.world_from_environment(torch.device("cpu")) as world:
        layer, x = layer_and_input((23, 3), None, commit="update")
        model = nn.Sequential(GhostBatchNorm(layer, None, commit="update", world=world))
        own = x[slice(*shares[world.rank])].detach().requires_grad_()
        out = model(own)
        (out**3).sum().backward()
        parameter_grads = world.sum(torch.cat([layer.weight.grad, layer.bias.grad]))
        commit_statistics(model, world.sum(core.pending_statistics(model)))
        return out.detach(), own.grad, parameter_grads, layer.running_mean, layer.running_var


@pytest.mark.parametrize("shares", [[(0, 20), (20, 23)], [(0, 12), (12, 23), (23, 23)]])
def test_statistics_span_unequal_and_empty_ranks_exactly(shares):
    layer, x = layer_and_input((23, 3), None)
    mean, var = layer.running_mean.clone(), layer.running_var.clone()
    expected = oracle.normalise(x, layer.weight, layer.bias, None, layer.eps)
    (expected**3).sum().backward()
    found = run_ranks(whole_batch_over_ranks, len(shares), shares)
    torch.testing.assert_close(torch.cat([row[0] for row in found]), expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([row[1] for row in found]), x.grad, rtol=1e-9, atol=1e-10)
    running = oracle.running(x.detach(), mean, var, None, 0.1)
    for row in found:
        torch.testing.assert_close(row[2], torch.cat([layer.weight.grad, layer.bias.grad]), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(row[3], running[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(row[4], running[1], rtol=1e-12, atol=1e-12)


def test_a_world_of_one_needs_no_group():
    layer, x = layer_and_input((8, 3), None, world=World())
    assert torch.isfinite(layer(x)).all()
