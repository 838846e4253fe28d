"""Batch-norm statistics of a whole model: moved once per update, set aside, re-estimated; and who depends on whom.

A measurement must not move them, a second pass at displaced weights (SAM) must not either, and over several passes and
ranks they move once, together, by the sample-weighted mean that `_batchnorm.py` states.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from largebatch.core._batchnorm import GhostBatchNorm, commit_layers, ghost_layers
from largebatch.core._collective import World
from largebatch.core._params import unflatten

__all__ = [
    "BatchNormMode",
    "batch_norm_mode",
    "commit_statistics",
    "coupled_layers",
    "discard_statistics",
    "frozen_statistics",
    "pending_statistics",
    "reestimate",
    "spare_statistics",
]

BatchNormMode = Literal["running", "batch", "reestimated"]
"""Which statistics a measurement uses: the running ones (evaluation), those of the batch at hand, or new running ones,
taken over the data at the very weights that are measured."""


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
    layers = ghost_layers(model)
    for layer in layers:
        if summed is not None and layer.running_mean is not None:
            width = layer.num_features
            part = summed[offset : offset + 2 * width + 1]
            offset += 2 * width + 1
            layer.pending_count = int(part[-1])
            if layer.pending_count:
                layer.pending_mean = part[:width] / part[-1]
                layer.pending_var = part[width : 2 * width] / part[-1]
    commit_layers(layers)


def discard_statistics(model: nn.Module) -> None:
    """Forget the pending statistics of passes that are about to be repeated."""
    for layer in ghost_layers(model):
        layer.discard()


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Training passes inside leave the running statistics alone: for passes at displaced weights, as in SAM."""
    before = [(layer, layer.is_frozen) for layer in ghost_layers(model)]
    try:
        for layer, _ in before:
            layer.is_frozen = True
        yield
    finally:
        for layer, was_frozen in before:
            layer.is_frozen = was_frozen


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
def batch_norm_mode(model: nn.Module, mode: Literal["running", "batch"]) -> Iterator[None]:
    """Evaluate `model` with running or with batch statistics, moving none, and leave it as it was.

    With batch statistics the layers are told to track none, so no buffer is written: a graph kept from inside stays valid.
    """
    modules = list(model.modules())
    training = [module.training for module in modules]
    norms = _batch_norms(model)
    tracking = [norm.track_running_stats for norm in norms]
    try:
        model.eval()
        with frozen_statistics(model) if mode == "batch" else nullcontext():
            for norm in norms if mode == "batch" else []:
                norm.training, norm.track_running_stats = True, False
            yield
    finally:
        for module, was_training in zip(modules, training, strict=True):
            module.training = was_training
        for norm, was_tracking in zip(norms, tracking, strict=True):
            norm.track_running_stats = was_tracking


@contextmanager
def spare_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, batch norms write to copies of their statistics; the buffers themselves come back untouched.

    Other tensors, not other values: a graph kept from inside still finds what it was built with.
    """
    norms = [norm for norm in _batch_norms(model) if norm.running_mean is not None]
    held = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    counts = [norm.pending_count if isinstance(norm, GhostBatchNorm) else 0 for norm in norms]
    try:
        for norm, buffers in zip(norms, held, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer.clone())
        yield
    finally:
        for norm, buffers, count in zip(norms, held, counts, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
            if isinstance(norm, GhostBatchNorm):
                norm.pending_count = count


@torch.no_grad()
def reestimate(
    model: nn.Module,
    forward: Callable[[Any], object],
    batches: Iterable[tuple[Any, int]],
    *,
    world: World | None = None,
) -> None:
    """Replace the running statistics by the sample-weighted mean of those of `batches`, at the present weights.

    Goyal et al. 2017, section 2.3: curves agree earlier if statistics are recomputed before evaluation. The model's mode
    is left as it was.

    Args:
        forward: runs the model on the inputs of one batch.
        batches: pairs (inputs, number of samples); of this rank, where there are several.
        world: the ranks whose batches count together.

    Raises:
        ValueError: no batches.
    """
    norms = [norm for norm in _batch_norms(model) if norm.running_mean is not None]
    before = [(module, module.training) for module in model.modules()]
    settings = [(norm, norm.momentum) for norm in norms]
    commits = [(layer, layer.commit_at) for layer in ghost_layers(model)]
    seen = 0
    try:
        model.eval()
        for norm in norms:
            norm.training = True
        for layer, _ in commits:
            layer.commit_at = "update"
            layer.discard()
        for inputs, samples in batches:
            seen += samples
            for norm in norms:  # with this momentum torch's own update is the running sample-weighted mean
                norm.momentum = samples / seen if samples else 0.0
            forward(inputs)
        for layer, _ in commits:
            layer.momentum = 1.0
            layer.commit()
        _mean_over_ranks(norms, seen, World() if world is None else world)
    finally:
        for module, was_training in before:
            module.training = was_training
        for norm, momentum in settings:
            norm.momentum = momentum
        for layer, commit_at in commits:
            layer.commit_at = commit_at


def _mean_over_ranks(norms: list[_BatchNorm], seen: int, world: World) -> None:
    statistics = [s for norm in norms for s in (norm.running_mean, norm.running_var) if s is not None]
    if not statistics:
        return
    flat = torch.cat([*(s.double() * seen for s in statistics), torch.tensor([float(seen)]).to(statistics[0].device)])
    world.sum(flat)
    if flat[-1] == 0:
        raise ValueError("re-estimating batch norm: expected at least one batch, got none")
    for statistic, mean in zip(statistics, unflatten(flat[:-1] / flat[-1], statistics), strict=True):
        if world.size > 1:
            statistic.copy_(mean)


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]
