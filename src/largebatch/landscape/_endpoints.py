"""Endpoints: checkpoints of one architecture, in whatever form they come, as models that differ in trainable weights only.

A line between two sets of weights means something only if everything else agrees: the shapes, the fixed parameters, the
buffers. Statistics of batch norms are the exception, for they can be interpolated or taken anew.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from largebatch.core import flatten, unflatten

__all__ = ["Weights", "endpoints", "point", "statistics"]

Weights = nn.Module | Mapping[str, Tensor] | Tensor
"""A model, its state_dict, or the (P,) vector of its parameters that require gradients."""

SHOWN = 4  # names in a message; the rest is counted
REMEDY = "load a checkpoint from before the run diverged"


def endpoints(model: nn.Module, given: Mapping[str, Weights], dtype: torch.dtype | None) -> dict[str, nn.Module]:
    """Copies of `model` that hold the given weights, by the names of `given`.

    Raises:
        ValueError: other keys, other shapes, weights that are not finite, fixed parameters or buffers that differ;
            lists every mistake.
    """
    blank = model if dtype is None else copy.deepcopy(model).to(dtype)
    _refuse([f"{name}: {mistake}" for name, weights in given.items() for mistake in _mistakes(weights, blank)])
    loaded = {name: _load(weights, copy.deepcopy(blank)) for name, weights in given.items()}
    first, *others = loaded
    _refuse(
        [
            f"{first}, {other}: only weights that require gradients are interpolated, but these differ too: "
            f"{_some(differing)}; take checkpoints of one run's architecture and fixed parts"
            for other in others
            if (differing := _differing(loaded[first], loaded[other]))
        ]
    )
    return loaded


def point(model: nn.Module) -> Tensor:
    """The parameters that require gradients, (P,), a copy."""
    return flatten(p.detach() for p in model.parameters() if p.requires_grad)


def statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances of all batch norms, themselves."""
    return [
        buffer
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]


def _load(weights: Weights, model: nn.Module) -> nn.Module:
    if isinstance(weights, Tensor):
        free = [p.detach() for p in model.parameters() if p.requires_grad]
        torch._foreach_copy_(free, unflatten(weights.detach(), free))
    else:
        model.load_state_dict(_state(weights))
    return model


def _state(weights: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return weights.state_dict() if isinstance(weights, nn.Module) else weights


def _mistakes(weights: Weights, model: nn.Module) -> list[str]:
    if isinstance(weights, Tensor):
        size = len(point(model))
        if weights.shape != (size,):
            return [f"a point of shape {tuple(weights.shape)} instead of ({size},)"]
        return [] if torch.isfinite(weights).all() else [f"NaN or infinity in the point: {REMEDY}"]
    expected, state = model.state_dict(), _state(weights)
    mistakes: list[str] = []
    if missing := [name for name in expected if name not in state]:
        mistakes.append(f"lacks {_some(missing)}")
    if unknown := [name for name in state if name not in expected]:
        mistakes.append(f"has {_some(unknown)}, which the model does not have")
    common = [name for name in expected if name in state]
    if shapes := [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in common
        if state[name].shape != expected[name].shape
    ]:
        mistakes.append(f"other shapes: {_some(shapes)}")
    if bad := [name for name in common if state[name].is_floating_point() and not torch.isfinite(state[name]).all()]:
        mistakes.append(f"NaN or infinity in {_some(bad)}: {REMEDY}")
    return mistakes


def _differing(a: nn.Module, b: nn.Module) -> list[str]:
    """Names of what is not interpolated and yet not equal. Counters of batches seen change nothing."""
    free = {id(buffer) for buffer in statistics(a)}
    fixed = [(name, p) for name, p in a.named_parameters() if not p.requires_grad]
    fixed += [
        (name, buffer)
        for name, buffer in a.named_buffers()
        if id(buffer) not in free and not name.endswith("num_batches_tracked")
    ]
    other = dict([*b.named_parameters(), *b.named_buffers()])
    return [name for name, tensor in fixed if not torch.equal(tensor, other[name])]


def _some(names: Iterable[str]) -> str:
    every: Sequence[str] = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def _refuse(mistakes: list[str]) -> None:
    if mistakes:
        raise ValueError("\n  ".join(["expected weights of one architecture, the model's:", *mistakes]))
