"""The generalised Gauss-Newton matrix of a risk, by its products: G·v = Σ_i J_i'·H_L,i·J_i·v / Σ_i w_i.

Schraudolph 2002, Neural Computation 14. J is the Jacobian of the outputs, H_L the Hessian of the loss by the outputs: G is
the Hessian's part that stays positive for a convex loss, H − G = Σ (∂L/∂z)·∂²z/∂x². J'u is linear in u, so its derivative
by u along v is J·v: with both graphs kept, a product costs 4/3 of a forward and backward pass.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from largebatch.core import Risk, total, unflatten, weigh
from largebatch.curvature._graphs import Graphs, KeepGraph, gradient_graph

__all__ = ["GGN"]


@dataclass(frozen=True)
class _Linearised:
    outputs: Tensor  # z, with the graph of the model
    cotangent: Tensor  # u, any values
    pullback: list[Tensor | None]  # J'u, with its graph in u; None where z does not depend on the parameter
    inner: Tensor  # z again, a leaf
    loss_gradient: Tensor  # ∂L/∂z at `inner`, with its graph


@final
class GGN:
    """The Gauss-Newton matrix at the model's present weights, (P, P), over the risk's own variables.

    Args:
        risk: its model gives one tensor of outputs. On several ranks all must multiply alike.
        keep_graph: as for `Hessian`.
    """

    def __init__(self, risk: Risk, *, keep_graph: KeepGraph = "auto"):
        self.risk = risk
        self.shape = (risk.dimension, risk.dimension)
        self.dtype = risk.dtype
        self.device = risk.device
        self.products = 0
        """Products so far."""
        self._graphs = Graphs(risk, self._linearise, keep_graph)

    def __matmul__(self, vector: Tensor) -> Tensor:
        """G·vector, (P,)."""
        variables = self.risk.parameters
        directions = unflatten(vector, variables)

        def term(at: _Linearised) -> list[Tensor]:
            pairs = [(g, d) for g, d in zip(at.pullback, directions, strict=True) if g is not None]
            if not pairs or not at.loss_gradient.requires_grad:  # no parameter is used, or a loss linear in the outputs
                return [torch.zeros_like(p) for p in variables]
            grads, along = zip(*pairs, strict=True)
            (pushed,) = torch.autograd.grad(grads, at.cotangent, along, retain_graph=True)
            (curved,) = torch.autograd.grad(at.loss_gradient, at.inner, pushed, retain_graph=True)
            return list(torch.autograd.grad(at.outputs, variables, curved, retain_graph=True, materialize_grads=True))

        self.products += 1
        return self._graphs.mean(term, passes=4 / 3)

    def _linearise(self, inputs: Tensor, targets: Tensor) -> tuple[_Linearised, Tensor | int]:
        outputs = self.risk.model(inputs)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"GGN: expected a model that returns one tensor, got {type(outputs).__name__}: wrap it so that it returns "
                "what the loss reads"
            )
        inner = outputs.detach().requires_grad_()
        value, weight = total(*weigh(self.risk.loss(inner, targets), len(inputs)))
        (loss_gradient,) = torch.autograd.grad(value, inner, create_graph=True, materialize_grads=True)
        cotangent = torch.ones_like(outputs).requires_grad_()
        pullback = gradient_graph(outputs, self.risk.parameters, cotangent)
        return _Linearised(outputs, cotangent, pullback, inner, loss_gradient), weight
