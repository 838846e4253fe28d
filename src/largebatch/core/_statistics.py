"""Batch-norm statistics of a whole model: moved once per update, set aside, re-estimated; and who depends on whom.

A measurement must not move them, a second pass at displaced weights (SAM) must not either, and over several passes and
ranks they move once, together, by the sample-weighted mean that `_batchnorm.py` states.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from largebatch.core._batchnorm import GhostBatchNorm, ghost_layers

__all__ = [
    "BatchNormMode",
    "batch_norm_mode",
    "commit_statistics",
    "coupled_layers",
    "discard_statistics",
    "frozen_statistics",
    "pending_statistics",
    "reestimate",
]

BatchNormMode = Literal["running", "batch"]
"""Which statistics a measurement uses: the running ones (evaluation), or those of the batch at hand."""


def pending_statistics(model: nn.Module) -> Tensor:
    """What this rank adds to the next commit: for each layer Σn·mean, Σn·variance and Σn, as one vector to be summed."""
    parts: list[Tensor] = []
    for layer in ghost_layers(model):
        if layer.running_mean is not None:
            count = layer.pending_count
            if count == 0:
                parts.append(layer.running_mean.new_zeros(2 * layer.num_features + 1))
            else:
                scaled = torch.cat([layer.pending_mean, layer.pending_var]) * count
                parts.append(torch.cat([scaled, scaled.new_tensor([float(count)])]))
    return torch.cat(parts) if parts else torch.zeros(0)


def commit_statistics(model: nn.Module, summed: Tensor | None = None) -> None:
    """Move all running statistics once, towards this rank's pending ones or towards the ranks' sum of them.

    Args:
        summed: `pending_statistics` added over the ranks; None on one rank.
    """
    offset = 0
    for layer in ghost_layers(model):
        if summed is not None and layer.running_mean is not None:
            width = layer.num_features
            part = summed[offset : offset + 2 * width + 1]
            offset += 2 * width + 1
            layer.pending_count = int(part[-1])
            if layer.pending_count:
                layer.pending_mean = part[:width] / part[-1]
                layer.pending_var = part[width : 2 * width] / part[-1]
        layer.commit()


def discard_statistics(model: nn.Module) -> None:
    """Forget the pending statistics of passes that are about to be repeated."""
    for layer in ghost_layers(model):
        layer.discard()


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Training passes inside leave the running statistics alone: for passes at displaced weights, as in SAM."""
    layers = ghost_layers(model)
    try:
        for layer in layers:
            layer.is_frozen = True
        yield
    finally:
        for layer in layers:
            layer.is_frozen = False


def coupled_layers(model: nn.Module) -> list[str]:
    """Names of the layers in which, in the present mode, one sample's output depends on the others of its batch."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _NormBase)
        and not isinstance(module, _InstanceNorm)
        and (module.training or module.running_mean is None)
    ]


@contextmanager
def batch_norm_mode(model: nn.Module, mode: BatchNormMode) -> Iterator[None]:
    """Evaluate `model` with running or with batch statistics, moving none, and leave it as it was.

    Restores the mode of every module and every batch-norm buffer, also after an error.
    """
    modules = list(model.modules())
    training = [module.training for module in modules]
    norms = [module for module in modules if isinstance(module, _BatchNorm)]
    saved = [{name: b.clone() for name, b in norm.named_buffers(recurse=False)} for norm in norms]
    counts = [norm.pending_count if isinstance(norm, GhostBatchNorm) else 0 for norm in norms]
    try:
        model.eval()
        for norm in norms:
            norm.training = mode == "batch"
        yield
    finally:
        for module, was_training in zip(modules, training, strict=True):
            module.training = was_training
        for norm, buffers, count in zip(norms, saved, counts, strict=True):
            for name, value in buffers.items():
                norm.get_buffer(name).copy_(value)
            if isinstance(norm, GhostBatchNorm):
                norm.pending_count = count


@torch.no_grad()
def reestimate(model: nn.Module, forward: Callable[[Any], object], batches: Iterable[tuple[Any, int]]) -> None:
    """Replace the running statistics by the sample-weighted mean of those of `batches`, at the present weights.

    Goyal et al. 2017, section 2.3: curves agree earlier if statistics are recomputed before evaluation. Needs ghost
    batch norm (`swap_batchnorm`); the model's mode is left as it was.

    Args:
        forward: runs the model on the inputs of one batch.
        batches: pairs (inputs, number of samples).

    Raises:
        ValueError: no batches.
    """
    layers = ghost_layers(model)
    before = [(module, module.training) for module in model.modules()]
    settings = [(layer, layer.commit_at, layer.momentum) for layer in layers]
    seen = 0
    try:
        model.eval()
        for layer in layers:
            layer.training, layer.commit_at = True, "update"
            layer.discard()
        for inputs, samples in batches:
            forward(inputs)
            seen += samples
        if not seen:
            raise ValueError("re-estimating batch norm: expected at least one batch, got none")
        for layer in layers:
            layer.momentum = 1.0
            layer.commit()
    finally:
        for module, was_training in before:
            module.training = was_training
        for layer, commit_at, momentum in settings:
            layer.commit_at, layer.momentum = commit_at, momentum
