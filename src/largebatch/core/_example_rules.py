"""Per layer: what its activations and output gradients say about each example's own gradient.

A matrix of weights has the gradient Σ_t δ_t ⊗ a_t of one example, over its T tokens or pixels, with the output gradients
δ_t and the inputs a_t (patches, of a convolution). Its squared norm is Σ_{t,t'} (δ_t·δ_t')(a_t·a_t'), or that of the sum
itself, whichever is smaller to compute (Goodfellow 2015, arXiv 1510.01799, for T = 1; Rochette et al. 2019, arXiv
1912.06015, for convolutions; Li et al. 2022, arXiv 2110.05679, for the two routes). Scales and shifts have gradients as
small as an activation, which are formed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from largebatch.core._batchnorm import GhostBatchNorm

__all__ = ["RULES", "Inputs", "Patches", "Rule", "Tokens", "matrix_squared_norms"]


@final
@dataclass(frozen=True)
class Patches:
    """Inputs a_t as vectors, (n, groups, T, D)."""

    values: Tensor

    def prefers_gram(self) -> bool:
        """Whether T x T inner products are fewer than the entries of a gradient's row."""
        return self.values.shape[2] <= self.values.shape[3]

    def gram(self) -> Tensor:
        """a_t·a_t', (n, groups, T, T)."""
        return self.values @ self.values.transpose(2, 3)

    def join(self, other: "Inputs") -> "Patches":
        """Of two calls of one layer: the sum over t goes on."""
        return Patches(torch.cat([self.values, other.values], dim=2))


@final
@dataclass(frozen=True)
class Tokens:
    """Inputs a_t as rows of an identity matrix, (n, T) numbers of rows; -1 selects nothing."""

    values: Tensor

    def prefers_gram(self) -> bool:
        """Always: the rows are as long as the vocabulary."""
        return True

    def gram(self) -> Tensor:
        """1 where two tokens are the same, (n, 1, T, T)."""
        same = (self.values[:, :, None] == self.values[:, None, :]) & (self.values[:, :, None] >= 0)
        return same[:, None]

    def join(self, other: "Inputs") -> "Tokens":
        """Of two calls of one layer."""
        return Tokens(torch.cat([self.values, other.values], dim=1))


Inputs = Patches | Tokens


def matrix_squared_norms(inputs: Inputs, gram: Tensor | None, delta: Tensor) -> Tensor:
    """‖Σ_t δ_t ⊗ a_t‖² of each example, (n,).

    Args:
        gram: `inputs.gram()` where that route is the cheaper one, else None.
        delta: (n, groups, T, O).
    """
    if gram is None:
        assert isinstance(inputs, Patches)
        return (delta.transpose(2, 3) @ inputs.values).square().sum(dim=(1, 2, 3))
    if delta.shape[2] == 1:
        return (delta.square().sum(dim=3) * gram[..., 0]).sum(dim=(1, 2))
    return ((delta @ delta.transpose(2, 3)) * gram).sum(dim=(1, 2, 3))


@dataclass(frozen=True)
class Rule:
    """How one kind of layer is read. `inputs` and `normalised` run at the call, `delta` and `summed` at each gradient.

    Args:
        inputs: (layer, input) → a_t, for the matrix `weight`; None where the layer has none.
        delta: (layer, output gradient) → δ_t, (n, groups, T, O).
        normalised: (layer, input) → x̂, of a layer that scales x̂ by a vector `weight`.
        summed: (layer, tensor of the output's shape) → its sum over all axes along which the vectors are shared, (n, …).
    """

    summed: Callable[[Any, Tensor], Tensor]
    inputs: Callable[[Any, Tensor], Inputs] | None = None
    delta: Callable[[Any, Tensor], Tensor] | None = None
    normalised: Callable[[Any, Tensor], Tensor] | None = None
    is_covered: Callable[[Any], bool] = lambda layer: True


def _over_tokens(layer: Any, x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.flatten(1, -2).sum(dim=1)


def _over_pixels(layer: Any, x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.flatten(2).sum(dim=2)


def _over_leading(layer: Any, x: Tensor) -> Tensor:
    """All axes between the samples and the normalised ones."""
    extra = x.dim() - 1 - len(layer.normalized_shape)
    return x if extra == 0 else x.flatten(1, extra).sum(dim=1)


def _linear_inputs(layer: nn.Linear, x: Tensor) -> Inputs:
    return Patches(x.reshape(len(x), 1, -1, x.shape[-1]))


def _linear_delta(layer: nn.Linear, delta: Tensor) -> Tensor:
    return delta.reshape(len(delta), 1, -1, delta.shape[-1])


def _convolution_inputs(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Inputs:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    if isinstance(layer, nn.Conv1d):
        padded, kernel, stride, dilation = padded[:, :, None], (1, *kernel), (1, *stride), (1, *dilation)
    columns = F.unfold(padded, kernel, dilation=dilation, stride=stride)  # (n, channels·kernel, T), channels outermost
    return Patches(columns.unflatten(1, (layer.groups, -1)).transpose(2, 3))


def _convolution_delta(layer: nn.Conv1d | nn.Conv2d, delta: Tensor) -> Tensor:
    return delta.flatten(2).unflatten(1, (layer.groups, -1)).transpose(2, 3)


def _embedding_inputs(layer: nn.Embedding, tokens: Tensor) -> Inputs:
    flat = tokens.reshape(len(tokens), -1)
    return Tokens(flat if layer.padding_idx is None else flat.masked_fill(flat == layer.padding_idx, -1))


def _embedding_delta(layer: nn.Embedding, delta: Tensor) -> Tensor:
    return delta.reshape(len(delta), 1, -1, delta.shape[-1])


def _batch_normalised(layer: nn.BatchNorm1d, x: Tensor) -> Tensor:
    return F.batch_norm(x, layer.running_mean, layer.running_var, None, None, False, 0.0, layer.eps)


def _layer_normalised(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, layer.normalized_shape, None, None, layer.eps)


def _group_normalised(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    return F.group_norm(x, layer.num_groups, None, None, layer.eps)


def _is_plain(layer: nn.Embedding) -> bool:
    return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse


_CONVOLUTION = Rule(_over_pixels, _convolution_inputs, _convolution_delta)
_BATCH_NORM = Rule(_over_pixels, normalised=_batch_normalised)

RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: Rule(_over_tokens, _linear_inputs, _linear_delta),
    nn.Conv1d: _CONVOLUTION,
    nn.Conv2d: _CONVOLUTION,
    nn.Embedding: Rule(_over_tokens, _embedding_inputs, _embedding_delta, is_covered=_is_plain),
    nn.BatchNorm1d: _BATCH_NORM,
    nn.BatchNorm2d: _BATCH_NORM,
    GhostBatchNorm: _BATCH_NORM,
    nn.LayerNorm: Rule(_over_leading, normalised=_layer_normalised),
    nn.GroupNorm: Rule(_over_pixels, normalised=_group_normalised),
}
"""By exact type: a subclass may compute something else."""
