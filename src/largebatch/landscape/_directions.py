"""Directions of a plane: two at random, orthogonal, and scaled to the weights filter by filter.

Li et al. 2018 (arXiv 1712.09913), section 4: d_ij ← d_ij·‖w_ij‖ / ‖d_ij‖, where w_ij are the weights of filter j of layer
i. A filter is what makes one output channel: of a convolution, or a row of a linear layer's matrix. Biases and the
parameters of norm layers stay where they are, as in the authors' code; buffers are no weights, and no direction moves them.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd

from largebatch.core import Risk, flatten, generator, unflatten

__all__ = ["Normalisation", "cosine", "given_directions", "random_directions"]

Normalisation = Literal["filter", "layer", "none"]

NORM_LAYERS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
PARALLEL = 0.999  # a larger |cosine| of two directions spans a line, not a plane


def random_directions(risk: Risk, normalisation: Normalisation, seed: int) -> tuple[Tensor, Tensor]:
    """Two Gaussian directions, (P,) each, made orthogonal before they are normalised.

    Normalising tilts them a little: report their `cosine`.

    Raises:
        ValueError: no weights besides biases and norm parameters, so that no plane is spanned.
    """
    drawn = [torch.randn(risk.dimension, generator=generator(seed, "plane", axis)).double() for axis in (0, 1)]
    first, second = [_moving(direction.to(risk.device), risk, normalisation) for direction in drawn]
    second -= (first @ second) / (first @ first) * first
    directions = [_normalise(direction, risk, normalisation) for direction in (first, second)]
    return _checked(directions, risk)


def given_directions(risk: Risk, directions: Sequence[Tensor], normalisation: Normalisation) -> tuple[Tensor, Tensor]:
    """The user's own two, normalised if asked for; never turned.

    Raises:
        ValueError: not two, other shapes, entries that are not finite, parallel ones.
    """
    shapes = [tuple(direction.shape) for direction in directions]
    if shapes != [(risk.dimension,)] * 2:
        raise ValueError(f"directions: expected 2 of shape ({risk.dimension},), got {shapes}")
    if not all(bool(torch.isfinite(direction).all()) for direction in directions):
        raise ValueError("directions: expected finite entries, got NaN or infinity")
    wide = [direction.detach().to(risk.device).double() for direction in directions]
    return _checked([_normalise(direction, risk, normalisation) for direction in wide], risk)


def cosine(u: Tensor, v: Tensor) -> float:
    """u'v / (‖u‖·‖v‖), summed in float64; NaN for a zero vector."""
    wide_u, wide_v = u.double(), v.double()
    return float(wide_u @ wide_v / (torch.linalg.vector_norm(wide_u) * torch.linalg.vector_norm(wide_v)))


def _checked(directions: Sequence[Tensor], risk: Risk) -> tuple[Tensor, Tensor]:
    first, second = [direction.to(risk.dtype) for direction in directions]
    tilt = cosine(first, second)
    if math.isnan(tilt) or abs(tilt) > PARALLEL:
        raise ValueError(
            f"directions: expected two that span a plane, got lengths {float(first.norm()):.3g} and "
            f"{float(second.norm()):.3g} with cosine {tilt:.6g}; biases and norm parameters do not move unless "
            'normalisation="none"'
        )
    return first, second


def _moving(direction: Tensor, risk: Risk, normalisation: Normalisation) -> Tensor:
    """0 where a normalised direction has no filter: the rest is made orthogonal."""
    if normalisation == "none":
        return direction
    for name, part in zip(risk.names, unflatten(direction, risk.parameters), strict=True):
        if not _has_filters(_owner(risk.model, name), part):
            part.zero_()
    return direction


def _normalise(direction: Tensor, risk: Risk, normalisation: Normalisation) -> Tensor:
    """Each filter, or each layer's matrix, scaled to the norm of its weights; what has no filters is set to 0."""
    if normalisation == "none":
        return direction
    parts: list[Tensor] = []
    named = zip(risk.names, risk.parameters, unflatten(direction, risk.parameters), strict=True)
    for name, parameter, part in named:
        owner = _owner(risk.model, name)
        if not _has_filters(owner, parameter):
            parts.append(torch.zeros_like(part))
            continue
        shape, within = ((1, -1), (1,)) if normalisation == "layer" else _filters(owner, parameter)
        weights, moved = parameter.detach().double().reshape(shape), part.reshape(shape)
        lengths = torch.linalg.vector_norm(weights, dim=within, keepdim=True)
        drawn = torch.linalg.vector_norm(moved, dim=within, keepdim=True)
        parts.append(torch.where(drawn > 0, moved * (lengths / drawn), 0.0))
    return flatten(parts)


def _owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _has_filters(owner: nn.Module, parameter: Tensor) -> bool:
    return parameter.dim() >= 2 and not isinstance(owner, NORM_LAYERS)


def _filters(owner: nn.Module, weight: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape to view a weight in, and the axes inside one filter."""
    if isinstance(owner, _ConvTransposeNd):  # (in, out / groups, *kernel): its output channels are on the second axis
        return (owner.groups, len(weight) // owner.groups, weight.shape[1], -1), (1, 3)
    return (len(weight), -1), (1,)
