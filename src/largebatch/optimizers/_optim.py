"""The optimiser a recipe names, over two parameter groups: decayed, and norm and bias parameters.

Goyal et al. 2017 (arXiv 1706.02677), section 5.1: no weight decay on the scale and shift of batch norm; biases are treated
alike, as is usual. SGD, Adam and AdamW are torch's. torch's SGD has the rate outside the momentum buffer (the paper's form
9), so it needs no momentum correction when the rate changes.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from largebatch.optimizers._layerwise import LAMB, LARS
from largebatch.optimizers._multipass import SAM, MultiPass, Proximal
from largebatch.recipe import Recipe

__all__ = ["build_optimizer", "load_moments"]


def build_optimizer(
    model: nn.Module | Iterable[tuple[str, nn.Parameter]], recipe: Recipe
) -> torch.optim.Optimizer | MultiPass:
    """The optimiser of a recipe, at its peak rate: a schedule is `build_scheduler`'s.

    Two groups, in the model's order: first the weights (embeddings among them), then the norm and bias parameters, which
    are those of at most one dimension and those of layer and RMS norms of any shape. The second has no weight decay
    unless the recipe says `decay_norm_and_bias`, and takes the plain step under LARS and LAMB (`adapt=False`). An
    empty group is left out, and so are parameters that need no gradient. `nesterov` is SGD's; the LARS of a recipe is
    the paper's.

    `optimizer.step(gradient)` drives every one of them, see `Gradient`; without `sam_rho` and `proximal_strength` it is
    a plain torch optimiser, also for `step()` after `backward()`.

    Args:
        model: a module, or its `named_parameters()`. Of names alone one cannot tell a norm of several dimensions: pass
            the module if it has one.
        recipe: optimizer, lr, momentum, nesterov, betas, eps, weight decay, trust coefficient, convention, SAM and
            proximal fields count.

    Returns:
        A torch optimiser whose groups hold `param_names`, or SAM or Proximal around one.

    Raises:
        ValueError: no parameter needs a gradient.
        TypeError: `model` is neither a module nor pairs of name and parameter.
    """
    inner = _inner(_parameter_groups(model, recipe), recipe)
    if recipe.sam_rho > 0:
        return SAM(inner, recipe.sam_rho)
    if recipe.proximal_strength > 0:
        return Proximal(inner, recipe.proximal_strength, recipe.proximal_steps)
    return inner


def load_moments(optimizer: torch.optim.Optimizer | MultiPass, state: dict[str, Any]) -> None:
    """Load the state of every parameter and keep the settings of the groups, which are this recipe's.

    torch's own load_state_dict would bring back the weight decay, momentum, betas and eps of the phase before.
    """
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)


def _inner(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    lr, momentum = recipe.lr, recipe.momentum
    adam: dict[str, Any] = {"lr": lr, "betas": (recipe.beta1, recipe.beta2), "eps": recipe.eps}
    fused = _can_fuse(groups)
    match recipe.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=recipe.nesterov, fused=fused)
        case "adam":
            return torch.optim.Adam(groups, **adam, fused=fused)
        case "adamw":
            return torch.optim.AdamW(groups, **adam, fused=fused)
        case "lamb":
            return LAMB(groups, **adam)
        case "lars":
            return LARS(
                groups,
                lr,
                momentum=momentum,
                trust_coefficient=recipe.trust_coefficient,
                momentum_convention=recipe.momentum_convention,
            )


def _parameter_groups(model: nn.Module | Iterable[tuple[str, nn.Parameter]], recipe: Recipe) -> list[dict[str, Any]]:
    shaped_norms = _norm_parameters(model) if isinstance(model, nn.Module) else set()
    weights: list[tuple[str, nn.Parameter]] = []
    norms_and_biases: list[tuple[str, nn.Parameter]] = []
    for name, p in _named(model):
        if p.requires_grad:
            (norms_and_biases if p.ndim <= 1 or p in shaped_norms else weights).append((name, p))
    if not weights and not norms_and_biases:
        raise ValueError("build_optimizer expected parameters that need a gradient, got none: unfreeze some first")
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": norms_and_biases, "weight_decay": recipe.weight_decay if recipe.decay_norm_and_bias else 0.0},
    ]
    if recipe.optimizer in ("lars", "lamb"):
        groups[1]["adapt"] = False
    return [group for group in groups if group["params"]]


def _named(model: nn.Module | Iterable[tuple[str, nn.Parameter]]) -> Iterable[tuple[str, nn.Parameter]]:
    pairs = list(model.named_parameters() if isinstance(model, nn.Module) else model)
    for pair in pairs:
        if not isinstance(pair, tuple):
            raise TypeError(
                f"build_optimizer expected a module or (name, parameter) pairs, got {type(pair).__name__}: "
                f"pass model or model.named_parameters()"
            )
    return pairs


def _norm_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Of the norms whose parameters may have several dimensions; batch, group and instance norm have one."""
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm | nn.RMSNorm)]
    return {p for module in norms for p in module.parameters()}


def _can_fuse(groups: list[dict[str, Any]]) -> bool | None:
    """None leaves the choice of kernel to torch."""
    parameters = [p for group in groups for _, p in group["params"]]
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters) or None
