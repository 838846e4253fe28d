"""The passes of an update made again, each for the gradient G_i of its summed loss and its count n_i."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from largebatch.replay._coordinates import Coordinates
from largebatch.replay._passes import Pass
from largebatch.replay._reference import Reference, tensors_in

__all__ = ["replay"]


def replay(
    reference: Reference, coordinates: Coordinates, window: Sequence[Pass]
) -> tuple[list[Tensor], list[float]] | str:
    """(G_i, each (d,); n_i) of all passes; or why they cannot be told. The process is as before."""
    sums, counts = [], []
    for done in window:
        found = _replayed(reference, done)
        if isinstance(found, str):
            return found
        sums.append(coordinates.pick(found[0]))
        counts.append(found[1])
    return sums, counts


def _replayed(reference: Reference, done: Pass) -> tuple[dict[str, Tensor], float] | str:
    """The gradient of the pass's summed loss, by parameter name, and its count; or why they cannot be told."""
    targets = None
    if reference.needs_targets:
        targets = done.origin.targets if done.origin else reference.targets_of(_first_tensor(done))
        if isinstance(targets, str):
            return done.doubt or targets
    try:
        return _summed_gradient(reference, done, targets)
    except RuntimeError as error:
        if "use_reentrant=True" not in str(error):
            raise
    return _summed_gradient(reference, done, targets, reenters=True)


def _first_tensor(done: Pass) -> Tensor | None:
    return next(tensors_in([*done.args, *done.kwargs.values()]), None)


def _summed_gradient(
    reference: Reference, done: Pass, targets: Any, *, reenters: bool = False
) -> tuple[dict[str, Tensor], float]:
    """Gradients, buffers and what the module notes down are as before.

    Args:
        reenters: the pass has a reentrant checkpoint, which torch differentiates by backward() alone.
    """
    module = reference.module
    held = {name: p.detach().requires_grad_() for name, p in module.named_parameters() if p.requires_grad}
    buffers = {name: done.buffers.get(name, buffer).clone() for name, buffer in module.named_buffers()}
    state = {f"module.{name}": tensor for name, tensor in (held | buffers).items()}
    with torch.enable_grad(), done.conditions(module):
        given = done.args, done.kwargs, (targets, done.samples), list(held.values()), reenters
        found, count = torch.func.functional_call(_Differentiated(reference), state, given)
    return {name: g for name, g in zip(held, found, strict=True) if g is not None}, count


@final
class _Differentiated(nn.Module):
    """A pass and its gradient as a module of its own, so that torch.func can run both with other tensors as parameters.

    Both, because activation checkpointing runs layers again in the backward pass.
    """

    def __init__(self, reference: Reference):
        super().__init__()
        self.module = reference.module
        self._reference = reference

    def forward(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        rest: tuple[Any, int],
        held: list[Tensor],
        reenters: bool,
    ) -> tuple[list[Tensor | None], float]:
        for layer in self.modules():
            if isinstance(layer, nn.RNNBase):  # it holds its parameters a second time, as a list
                layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]
        summed, count = self._reference.loss_sum(self._reference.call(args, kwargs), *rest)
        if not reenters:
            return list(torch.autograd.grad(summed, held, allow_unused=True)), count
        summed.backward()
        return [p.grad for p in held], count
