"""A model's parameters as one vector of moderate length: all entries, or evenly spaced ones of a large model.

Every identity between gradients holds entry by entry, so a part of the entries tests it as well.
"""

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

__all__ = ["Coordinates"]

MOST_ENTRIES = 250_000


@final
class Coordinates:
    """The trainable parameters of a module, and the same entries of anything of their shapes."""

    def __init__(self, module: nn.Module):
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        entries = sum(p.numel() for p in self._parameters.values())
        self._stride = -(-entries // MOST_ENTRIES) if entries else 1

    def named(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Those of the parameters that an optimiser has."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return {name: p for name, p in self._parameters.items() if id(p) in held}

    def gradients(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Entries of each gradient, by name; unscaled where the optimiser will do that itself."""
        scale: Any = getattr(optimizer, "grad_scale", None)
        return {
            name: self._entries(p.grad) if scale is None else self._entries(p.grad) / scale
            for name, p in self.named(optimizer).items()
            if p.grad is not None
        }

    def present_gradient(self) -> Tensor:
        """(d,): what the parameters' `grad` hold now."""
        return self.pick({name: p.grad for name, p in self._parameters.items() if p.grad is not None})

    def of_weights(self) -> Tensor:
        """(d,), a copy."""
        return self.pick(self._parameters)

    def pick(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """(d,): the entries of tensors by parameter name, 0 where there is none."""
        return self.assemble({name: self._entries(tensor) for name, tensor in tensors.items()})

    def assemble(self, entries: Mapping[str, Tensor]) -> Tensor:
        """(d,): one vector of entries by name, 0 where there are none."""
        parts = [
            entries[name] if name in entries else torch.zeros_like(self._entries(p))
            for name, p in self._parameters.items()
        ]
        return torch.cat(parts).cpu() if parts else torch.zeros(0)

    def missing(self, entries: Mapping[str, Tensor]) -> list[str]:
        """Names of parameters without entries."""
        return [name for name in self._parameters if name not in entries]

    def is_vector(self) -> Tensor:
        """(d,) bool: entries of parameters with at most one dimension, such as biases and norms."""
        return torch.cat([torch.full_like(self._entries(p), p.dim() <= 1, dtype=torch.bool).cpu()
                          for p in self._parameters.values()])  # fmt: skip

    def _entries(self, tensor: Tensor) -> Tensor:
        dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()  # as embeddings' gradients may be
        dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        return dense.reshape(-1)[:: self._stride].to(dtype, copy=True)
