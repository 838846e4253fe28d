"""Everything about batch norm: ghost statistics, the swap, re-estimation, freezing, and finding coupled layers.

Ghost batch norm (Hoffer et al. 2017, arXiv 1705.08741; the per-worker statistics of Goyal et al. 2017, arXiv 1706.02677,
section 2.3: n "is a hyper-parameter of the loss", not of the distribution). Each ghost of n samples is normalised by its
own mean and variance. Running statistics move once, with torch's momentum m = 0.1, towards the sample-weighted mean over
all ghosts of the mean and the unbiased variance:

    running ← (1 − m)·running + m·Σ_g n_g·statistic_g / Σ_g n_g
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from largebatch.core._collective import World, sum_over_ranks
from largebatch.core._sampler import ghost_sizes

__all__ = [
    "BatchNormMode",
    "GhostBatchNorm",
    "batch_norm_mode",
    "commit_statistics",
    "coupled_layers",
    "discard_statistics",
    "frozen_statistics",
    "has_batch_norm",
    "pending_statistics",
    "reestimate",
    "swap_batchnorm",
]

BatchNormMode = Literal["running", "batch"]
"""Which statistics a measurement uses: the running ones (evaluation), or those of the batch at hand."""


@final
class GhostBatchNorm(_BatchNorm):
    """Batch norm whose training statistics are those of ghosts of `ghost_batch_size` samples. state_dict as in torch.

    Args:
        layer: the batch norm to take over: its parameters, buffers, eps and momentum are shared, not copied.
        ghost_batch_size: n; None means the whole batch, and over all ranks where `world` has several.
        commit: "forward" moves the running statistics at every training pass, as torch does; "update" waits for
            `commit_statistics`, so that several passes (gradient accumulation, ranks) move them once, together.
    """

    _pending_mean: Tensor
    _pending_var: Tensor

    def __init__(
        self,
        layer: _BatchNorm,
        ghost_batch_size: int | None,
        *,
        commit: Literal["forward", "update"] = "forward",
        world: World | None = None,
    ):
        super().__init__(layer.num_features, layer.eps, layer.momentum, False, layer.track_running_stats)
        if ghost_batch_size is not None and ghost_batch_size < 2:
            raise ValueError(
                f"ghost_batch_size: expected at least 2 samples, got {ghost_batch_size}: one sample has no variance; "
                "use 32, or None for statistics over the whole batch"
            )
        self.affine = layer.affine
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.training = layer.training
        self.ghost_batch_size = ghost_batch_size
        self.commit_at = commit
        self.is_frozen = False
        self._group = world.statistics_group if world is not None and world.size > 1 else None
        self._dimensions = layer._check_input_dim
        self._pending_count = 0
        if self.running_mean is not None:
            self.register_buffer("_pending_mean", torch.zeros_like(self.running_mean), persistent=False)
            self.register_buffer("_pending_var", torch.zeros_like(self.running_mean), persistent=False)

    def _check_input_dim(self, input: Tensor) -> None:
        self._dimensions(input)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_batch_size={self.ghost_batch_size}"

    def forward(self, input: Tensor) -> Tensor:
        """input: (samples, channels, …). The samples start on a ghost boundary of their global batch."""
        self._check_input_dim(input)
        if not self.training and self.running_mean is not None:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        if self.ghost_batch_size is None and self._group is not None:
            output = self._synchronised(input)
        else:
            output = self._by_ghost(input)
        if self.commit_at == "forward":
            self.commit()
        return output

    def commit(self) -> None:
        """Move the running statistics once towards the pending ones, and start anew."""
        if self.running_mean is None or self.running_var is None or self._pending_count == 0:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        with torch.no_grad():
            self.running_mean.lerp_(self._pending_mean, momentum)
            self.running_var.lerp_(self._pending_var, momentum)
        self.discard()

    def discard(self) -> None:
        """Forget the pending statistics."""
        self._pending_count = 0

    def _by_ghost(self, x: Tensor) -> Tensor:
        sizes = ghost_sizes(len(x), self.ghost_batch_size)
        if not sizes:
            return x
        equal = [n for n in sizes if n == sizes[0]]
        if _prefers_folding(x) and len(equal) > 1:
            outputs = [self._folded(x[: sizes[0] * len(equal)], len(equal))]
            if len(equal) < len(sizes):
                outputs.append(self._one_ghost(x[sizes[0] * len(equal) :]))
        else:
            outputs = [self._one_ghost(chunk) for chunk in x.split(sizes)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _one_ghost(self, x: Tensor) -> Tensor:
        if self.running_mean is None or self.is_frozen:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        # With this momentum torch's own in-place update is the running sample-weighted mean over the ghosts.
        share = self._weight_of(len(x))
        return F.batch_norm(x, self._pending_mean, self._pending_var, self.weight, self.bias, True, share, self.eps)

    def _folded(self, x: Tensor, ghosts: int) -> Tensor:
        n, channels, spatial = len(x) // ghosts, x.shape[1], x.shape[2:]
        y = x.reshape(ghosts, n, channels, *spatial).transpose(0, 1).reshape(n, ghosts * channels, *spatial)
        weight = None if self.weight is None else self.weight.repeat(ghosts)
        bias = None if self.bias is None else self.bias.repeat(ghosts)
        mean = var = None
        if self.running_mean is not None and not self.is_frozen:
            mean = self.running_mean.new_zeros(ghosts * channels)
            var = torch.zeros_like(mean)
        y = F.batch_norm(y, mean, var, weight, bias, True, 1.0, self.eps)
        if mean is not None and var is not None:
            self._merge(mean.view(ghosts, channels).mean(0), var.view(ghosts, channels).mean(0), len(x))
        return y.reshape(n, ghosts, channels, *spatial).transpose(0, 1).reshape(x.shape)

    def _synchronised(self, x: Tensor) -> Tensor:
        """Statistics over the whole global batch: two differentiable sums over ranks, exact for unequal shares."""
        axes = [0, *range(2, x.dim())]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        shape = (1, -1) + (1,) * (x.dim() - 2)
        local = wide.new_tensor([x.numel() / x.shape[1], len(x)])
        values, samples = sum_over_ranks(local, self._group).tolist()
        mean = sum_over_ranks(wide.sum(axes), self._group) / values
        centred = wide - mean.view(shape)
        var = sum_over_ranks(centred.square().sum(axes), self._group) / values
        out = centred * torch.rsqrt(var + self.eps).view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        if self.running_mean is not None and not self.is_frozen:
            # Every rank holds the same global statistic; weighted by its own samples, the sum over ranks is exact.
            unbiased = var.detach() * (values / max(values - 1, 1))
            self._merge(mean.detach(), unbiased, len(x) if samples else 0)
        return out.to(x.dtype)

    def _merge(self, mean: Tensor, var: Tensor, samples: int) -> None:
        if samples == 0:
            return
        share = self._weight_of(samples)
        with torch.no_grad():
            self._pending_mean = torch.lerp(self._pending_mean, mean.to(self._pending_mean.dtype), share)
            self._pending_var = torch.lerp(self._pending_var, var.to(self._pending_var.dtype), share)

    def _weight_of(self, samples: int) -> float:
        """Count `samples` in, and return the weight they have among all that are pending."""
        if self._pending_count == 0:
            # New tensors: a graph that still waits for its backward pass may hold the old ones.
            self._pending_mean = torch.zeros_like(self._pending_mean)
            self._pending_var = torch.zeros_like(self._pending_var)
        self._pending_count += samples
        return samples / self._pending_count


def _prefers_folding(x: Tensor) -> bool:
    """On a GPU one kernel over (n, ghosts·channels) beats a launch for each ghost; on a CPU the loop is faster."""
    return x.is_cuda


def _ghost_layers(model: nn.Module) -> list[GhostBatchNorm]:
    return [module for module in model.modules() if isinstance(module, GhostBatchNorm)]


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any layer takes statistics over the batch when training."""
    return any(isinstance(m, _NormBase) and not isinstance(m, _InstanceNorm) for m in model.modules())


def swap_batchnorm(
    model: nn.Module,
    ghost_batch_size: int | None,
    *,
    commit: Literal["forward", "update"] = "forward",
    world: World | None = None,
) -> int:
    """Replace every batch norm of a model, in place, by ghost batch norm; returns how many were replaced.

    Parameters and buffers stay the same objects under the same names, so optimisers and checkpoints do not notice.
    In a loop with gradient accumulation or several ranks pass `commit="update"` and call `commit_statistics(model)` once
    for each optimiser step.

    Raises:
        ValueError: a ghost smaller than 2, or the model itself is a batch norm (it cannot be replaced in place).
    """
    if isinstance(model, _BatchNorm):
        raise ValueError("expected a model that contains batch norms, got a batch norm: wrap it in nn.Sequential")
    replaced: dict[int, GhostBatchNorm] = {}  # a layer used under two names stays one layer
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children would skip a second name
            if isinstance(child, _BatchNorm) and not isinstance(child, _InstanceNorm):
                if id(child) not in replaced:
                    replaced[id(child)] = GhostBatchNorm(child, ghost_batch_size, commit=commit, world=world)
                setattr(parent, name, replaced[id(child)])
    return len(replaced)


def pending_statistics(model: nn.Module) -> Tensor:
    """What this rank adds to the next commit: for each layer Σn·mean, Σn·variance and Σn, as one vector to be summed."""
    parts: list[Tensor] = []
    for layer in _ghost_layers(model):
        if layer.running_mean is not None:
            count = layer._pending_count
            if count == 0:
                parts.append(layer.running_mean.new_zeros(2 * layer.num_features + 1))
            else:
                scaled = torch.cat([layer._pending_mean, layer._pending_var]) * count
                parts.append(torch.cat([scaled, scaled.new_tensor([float(count)])]))
    return torch.cat(parts) if parts else torch.zeros(0)


def commit_statistics(model: nn.Module, summed: Tensor | None = None) -> None:
    """Move all running statistics once, towards this rank's pending ones or towards the ranks' sum of them.

    Args:
        summed: `pending_statistics` added over the ranks; None on one rank.
    """
    offset = 0
    for layer in _ghost_layers(model):
        if summed is not None and layer.running_mean is not None:
            width = layer.num_features
            part = summed[offset : offset + 2 * width + 1]
            offset += 2 * width + 1
            layer._pending_count = int(part[-1])
            if layer._pending_count:
                layer._pending_mean = part[:width] / part[-1]
                layer._pending_var = part[width : 2 * width] / part[-1]
        layer.commit()


def discard_statistics(model: nn.Module) -> None:
    """Forget the pending statistics of passes that are about to be repeated."""
    for layer in _ghost_layers(model):
        layer.discard()


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Training passes inside leave the running statistics alone: for passes at displaced weights, as in SAM."""
    layers = _ghost_layers(model)
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
    counts = [norm._pending_count if isinstance(norm, GhostBatchNorm) else 0 for norm in norms]
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
                norm._pending_count = count


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
    layers = _ghost_layers(model)
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
