"""Several small networks as one: parameters stacked along a first axis, one batched product for a layer of all of them.

A network of 10,000 weights keeps a core busy with calls, not with arithmetic. S networks of one shape, each with its own
weights and its own samples, need as many calls as one. Networks: Flatten, Linear, BatchNorm1d, ReLU and Tanh in a row,
under cross-entropy; the gradient is written out, since autograd's own bookkeeping would be most of the time.

    y = xW' + b             ∂x = ∂y W,  ∂W = ∂y' x,  ∂b = Σ ∂y
    y = γ x̂ + β, x̂ = (x − μ)/σ over each ghost of m samples
                            ∂x = (γ/σ)(∂y − (Σ ∂y + x̂ Σ ∂y·x̂)/m),  ∂γ = Σ ∂y·x̂,  ∂β = Σ ∂y      (Ioffe and Szegedy 2015)
    cross-entropy           ∂z = (softmax(z) − one-hot)/n

Every sum runs within one network, so each is, to rounding, what it would be alone (ghosts and their running statistics as in
`core.GhostBatchNorm`).
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from largebatch.core import ghost_sizes

__all__ = ["Stack", "can_stack"]

LANES = 64  # numbers that a vector instruction may take at once, and more
LAYERS = (nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Tanh)


def can_stack(model: nn.Module) -> bool:
    """Whether `Stack` knows every layer, with the settings it knows."""
    layers = list(model) if isinstance(model, nn.Sequential) else []
    return bool(layers) and all(type(layer) in LAYERS and _is_plain(layer) for layer in layers)


@final
class Stack:
    """S networks of one architecture.

    Args:
        models: with their initial weights; not touched.
        ghost_batch_size: of batch norm; None: the whole batch.
    """

    def __init__(self, models: Sequence[nn.Module], ghost_batch_size: int | None):
        self.size = len(models)
        self.template = models[0]
        named = [dict(model.named_parameters()) for model in models]
        # Two buffers, because weight decay knows two kinds of parameters: (S, Pw) and, flat, (S·Pb,), each row padded.
        self.weights, held = self._buffer([name for name, p in named[0].items() if p.ndim > 1], named)
        others, rest = self._buffer([name for name, p in named[0].items() if p.ndim <= 1], named)
        self.others = others.view(-1)
        self.weights.grad, self.others.grad = torch.zeros_like(self.weights), torch.zeros_like(self.others)
        self.values: dict[str, Tensor] = _views(self.weights, held) | _views(self.others.view(self.size, -1), rest)
        self.grads = _views(self.weights.grad, held) | _views(self.others.grad.view(self.size, -1), rest)
        self.buffers: dict[str, Tensor] = {
            name: torch.stack([model.get_buffer(name) for model in models]) for name, _ in models[0].named_buffers()
        }
        self.layers = [
            _layer(f"{i}.", layer, self, ghost_batch_size) for i, layer in enumerate(_sequence(self.template))
        ]
        # Nothing before the first layer with parameters needs a gradient.
        self._first = next(i for i, layer in enumerate(self.layers) if isinstance(layer, _Linear | _BatchNorm))

    def _buffer(self, names: list[str], named: list[dict[str, nn.Parameter]]) -> tuple[Tensor, dict[str, torch.Size]]:
        shapes = {name: named[0][name].shape for name in names}
        rows = torch.stack([torch.cat([one[name].detach().reshape(-1) for name in names]) for one in named])
        # Fused optimisers round the last few numbers of a buffer otherwise than those before them: no row may end there.
        return F.pad(rows, (0, -rows.shape[1] % LANES)), shapes

    def gradient(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Put the mean gradient of each network's batch into `weights.grad` and `others.grad`; move the statistics.

        Args:
            inputs: (S, n, …); targets: (S, n) class numbers.

        Returns:
            Loss of each network's batch (S,), and logits (S, n, classes).
        """
        x = inputs
        for layer in self.layers:
            x = layer.forward(x)
        log_p = F.log_softmax(x, dim=2)
        index = targets[:, :, None]
        losses = log_p.gather(2, index).squeeze(2).mean(dim=1).neg()
        gradient = log_p.exp_()
        gradient.scatter_add_(2, index, torch.full_like(index, -1, dtype=x.dtype))
        gradient /= targets.shape[1]
        for i in range(len(self.layers) - 1, self._first - 1, -1):
            gradient = self.layers[i].backward(gradient, is_first=i == self._first)
        return losses, x

    def evaluate(self, inputs: Tensor) -> Tensor:
        """Logits (S, n, classes) of the same samples (n, …) with running statistics."""
        x = inputs[None].expand(self.size, *inputs.shape)
        for layer in self.layers:
            x = layer.evaluate(x)
        return x

    def state(self, network: int) -> dict[str, Tensor]:
        """The state_dict of one of them, a copy."""
        held = self.values | self.buffers
        return {name: held[name][network].clone() for name in self.template.state_dict()}


class _Plain:
    """A layer without parameters."""

    def __init__(self, layer: nn.Module):
        self._layer = layer
        self._y = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """(S, n, …)."""
        if isinstance(self._layer, nn.Flatten):
            return x.flatten(2)
        self._y = x.relu() if isinstance(self._layer, nn.ReLU) else x.tanh()
        return self._y

    def evaluate(self, x: Tensor) -> Tensor:
        """As `forward`."""
        return self.forward(x)

    def backward(self, gradient: Tensor, *, is_first: bool) -> Tensor:
        """∂x."""
        if isinstance(self._layer, nn.Flatten):
            return gradient
        if isinstance(self._layer, nn.ReLU):
            return torch.ops.aten.threshold_backward(gradient, self._y, 0)
        return gradient * (1 - self._y.square())


class _Linear:
    """y = xW' + b."""

    def __init__(self, stack: Stack, prefix: str):
        self._weight, self._weight_grad = stack.values[f"{prefix}weight"], stack.grads[f"{prefix}weight"]
        self._bias, self._bias_grad = stack.values.get(f"{prefix}bias"), stack.grads.get(f"{prefix}bias")
        self._x = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """(S, n, in) → (S, n, out)."""
        self._x = x
        return self.evaluate(x)

    def evaluate(self, x: Tensor) -> Tensor:
        """As `forward`, keeping nothing."""
        transposed = self._weight.transpose(1, 2)
        return torch.bmm(x, transposed) if self._bias is None else torch.baddbmm(self._bias[:, None], x, transposed)

    def backward(self, gradient: Tensor, *, is_first: bool) -> Tensor:
        """∂x; ∂W and ∂b go to their buffers."""
        torch.bmm(gradient.transpose(1, 2), self._x, out=self._weight_grad)
        if self._bias_grad is not None:
            self._bias_grad.copy_(gradient.sum(dim=1))
        return gradient if is_first else torch.bmm(gradient, self._weight)


class _BatchNorm:
    """Ghost batch norm of (S, n, C)."""

    def __init__(self, stack: Stack, prefix: str, layer: nn.BatchNorm1d, ghost_batch_size: int | None):
        self._weight, self._bias = (stack.values[f"{prefix}{name}"][:, None, None] for name in ("weight", "bias"))
        self._weight_grad, self._bias_grad = (stack.grads[f"{prefix}{name}"] for name in ("weight", "bias"))
        self._mean, self._var = stack.buffers[f"{prefix}running_mean"], stack.buffers[f"{prefix}running_var"]
        self._count = stack.buffers[f"{prefix}num_batches_tracked"]
        self._eps = torch.tensor(layer.eps, dtype=stack.weights.dtype)
        self._momentum, self._ghost = layer.momentum or 0.0, ghost_batch_size
        self._kept: list[tuple[Tensor, Tensor]] = []  # x̂ and 1/σ of each block of equal ghosts

    def forward(self, x: Tensor) -> Tensor:
        """Each block of equal ghosts as (S, ghosts, m, C), normalised over m."""
        self._kept = []
        outputs: list[Tensor] = []
        means: list[Tensor] = []
        variances: list[Tensor] = []
        for block in self._blocks(x):
            size = block.shape[2]
            total = block.sum(dim=2, keepdim=True)  # `mean` and, along an inner axis, `var_mean` take far longer
            normal = torch.add(block, total, alpha=-1 / size)
            squares = normal.square().sum(dim=2, keepdim=True)
            inverse = torch.add(self._eps, squares, alpha=1 / size).rsqrt_()
            normal.mul_(inverse)
            self._kept.append((normal, inverse))
            outputs.append(torch.addcmul(self._bias, normal, self._weight).flatten(1, 2))
            means.append(_over_ghosts(total) / x.shape[1])
            variances.append(_over_ghosts(squares) * (size / max(size - 1, 1) / x.shape[1]))
        self._mean.lerp_(_sum(means), self._momentum)
        self._var.lerp_(_sum(variances), self._momentum)
        self._count += 1
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def evaluate(self, x: Tensor) -> Tensor:
        """With running statistics."""
        scale = self._weight[:, 0] * torch.rsqrt(self._var + self._eps)[:, None]
        return torch.addcmul(self._bias[:, 0] - self._mean[:, None] * scale, x, scale)

    def backward(self, gradient: Tensor, *, is_first: bool) -> Tensor:
        """∂x; ∂γ and ∂β go to their buffers."""
        found: list[Tensor] = []
        weight_grads: list[Tensor] = []
        bias_grads: list[Tensor] = []
        for block, (normal, inverse) in zip(self._blocks(gradient), self._kept, strict=True):
            size = block.shape[2]
            over_ghost = block.sum(dim=2, keepdim=True)
            along = (block * normal).sum(dim=2, keepdim=True)
            bias_grads.append(_over_ghosts(over_ghost))
            weight_grads.append(_over_ghosts(along))
            rest = torch.addcmul(block - over_ghost / size, normal, along, value=-1 / size)
            found.append(rest.mul_(self._weight * inverse).flatten(1, 2))
        self._bias_grad.copy_(_sum(bias_grads))
        self._weight_grad.copy_(_sum(weight_grads))
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def _blocks(self, x: Tensor) -> list[Tensor]:
        """(S, n, C) in blocks (S, ghosts, m, C) of equal ghosts: all but the last one, and the last where it differs."""
        networks, samples, channels = x.shape
        equal, size, rest = _division(samples, self._ghost)
        blocks = [x[:, : equal * size].reshape(networks, equal, size, channels)]
        return [*blocks, x[:, None, equal * size :]] if rest else blocks


@cache
def _division(samples: int, ghost_batch_size: int | None) -> tuple[int, int, int]:
    """How many ghosts are of equal size, that size, and that of the last one where it differs, else 0."""
    sizes = ghost_sizes(samples, ghost_batch_size)
    equal = sizes.count(sizes[0])
    return equal, sizes[0], 0 if equal == len(sizes) else sizes[-1]


def _over_ghosts(x: Tensor) -> Tensor:
    """(S, ghosts, 1, C) → (S, C)."""
    return x.flatten(1) if x.shape[1] == 1 else x.sum(dim=(1, 2))


def _sum(parts: list[Tensor]) -> Tensor:
    """Of one or two."""
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _views(buffer: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Name → (S, *shape), views of (S, P)."""
    sizes = [shape.numel() for shape in shapes.values()]
    parts = buffer[:, : sum(sizes)].split(sizes, dim=1)
    return {name: part.view(len(buffer), *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _layer(prefix: str, layer: nn.Module, stack: Stack, ghost_batch_size: int | None) -> Any:
    if isinstance(layer, nn.Linear):
        return _Linear(stack, prefix)
    if isinstance(layer, nn.BatchNorm1d):
        return _BatchNorm(stack, prefix, layer, ghost_batch_size)
    return _Plain(layer)


def _sequence(model: nn.Module) -> list[nn.Module]:
    assert isinstance(model, nn.Sequential)
    return list(model)


def _is_plain(layer: nn.Module) -> bool:
    if not all(p.requires_grad for p in layer.parameters()):
        return False
    if isinstance(layer, nn.BatchNorm1d):
        return layer.affine and layer.track_running_stats and layer.momentum is not None
    return not isinstance(layer, nn.Flatten) or (layer.start_dim, layer.end_dim) == (1, -1)
