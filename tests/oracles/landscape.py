"""Losses at given weights, directions and steps, written slowly and plainly: full batches, loops, textbook formulas."""

import copy
import math

import torch
from torch import nn


def evaluate(model, state, data, loss):
    """Per-example losses (n,) of a fresh copy with this state_dict, in evaluation mode, on all samples at once."""
    twin = copy.deepcopy(model)
    twin.load_state_dict(state)
    twin.eval()
    with torch.no_grad():
        return loss(twin(data[0]), data[1])


def with_statistics_of(model, state, inputs):
    """The state_dict with the running statistics of one batch of all `inputs`: mean and unbiased variance."""
    twin = copy.deepcopy(model)
    twin.load_state_dict(state)
    twin.eval()
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.train()
            module.reset_running_stats()
            module.momentum = None  # a cumulative average: of one batch
    with torch.no_grad():
        twin(inputs)
    return {name: tensor.clone() for name, tensor in twin.state_dict().items()}


def mixed(a, b, alpha):
    """(1 − α)·a + α·b for each floating-point entry of two state_dicts."""
    return {name: (1 - alpha) * a[name] + alpha * b[name] if a[name].is_floating_point() else a[name] for name in a}


def filter_norms(model):
    """{parameter: list of the norms of its filters}, for convolutions and linear layers; biases and norms: none."""
    found = {}
    for name, module in copy.deepcopy(model).requires_grad_(False).named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, nn.ConvTranspose2d):
            per_group = module.out_channels // module.groups
            inputs = module.in_channels // module.groups
            found[f"{prefix}weight"] = [
                math.sqrt(sum(float(module.weight[group * inputs + i, channel].square().sum()) for i in range(inputs)))
                for group in range(module.groups)
                for channel in range(per_group)
            ]
        elif isinstance(module, nn.Conv2d | nn.Linear):
            found[f"{prefix}weight"] = [math.sqrt(float(row.square().sum())) for row in module.weight]
    return found


def linear_rule_on_a_quadratic(hessian, slope, start, rate, k):
    """Difference ÷ movement for the gradient H·x + g, by matrix powers.

    k small steps end at x* + (I − ηH)^k (x_0 − x*) with the minimiser x* = −H⁻¹g; the large one at x_0 − kη(Hx_0 + g).
    """
    minimiser = -torch.linalg.solve(hessian, slope)
    shrink = torch.linalg.matrix_power(torch.eye(len(start), dtype=start.dtype) - rate * hessian, k)
    small = minimiser + shrink @ (start - minimiser)
    large = start - k * rate * (hessian @ start + slope)
    return float((small - large).norm() / (small - start).norm())


def linear_rule_by_torch(model, loss, batches, *, rate, momentum, weight_decay):
    """Difference ÷ movement by torch.optim.SGD in training mode, gradients of the large step added over the batches."""
    start = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def run(groups, rate):
        twin = copy.deepcopy(model).train()
        optimizer = torch.optim.SGD(twin.parameters(), lr=rate, momentum=momentum, weight_decay=weight_decay)
        if momentum:
            for p, gradient in zip(twin.parameters(), accumulated(twin, batches), strict=True):
                steady = (gradient + weight_decay * p.detach()) / (1 - momentum)
                optimizer.state[p]["momentum_buffer"] = steady
        for group in groups:
            for p, gradient in zip(twin.parameters(), accumulated(twin, group), strict=True):
                p.grad = gradient
            optimizer.step()
        return torch.cat([p.detach().reshape(-1) for p in twin.parameters()])

    def accumulated(twin, group):
        count = sum(len(targets) for _, targets in group)
        sums = [torch.zeros_like(p) for p in twin.parameters()]
        for inputs, targets in group:
            value = loss(twin(inputs), targets).sum() / count
            for summed, gradient in zip(sums, torch.autograd.grad(value, list(twin.parameters())), strict=True):
                summed.add_(gradient)
        return sums

    small = run([[batch] for batch in batches], rate)
    large = run([batches], len(batches) * rate)
    return float((small - large).norm() / (small - start).norm())
