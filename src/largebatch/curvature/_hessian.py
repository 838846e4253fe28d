"""The Hessian of a risk, by its products with vectors: ∇²f(x)·v is the gradient of ∇f(x)'v.

Pearlmutter 1994, Neural Computation 6, his R{∇f} with vector v. The sum over all samples and ranks is divided once, and
the product, not the gradient, is summed over the ranks: it is linear, so one reduction is enough.
"""

from typing import final

import torch
from torch import Tensor

from largebatch.core import Risk, unflatten
from largebatch.curvature._graphs import Graphs, KeepGraph, gradient_graph

__all__ = ["Hessian"]


@final
class Hessian:
    """∇²f of a risk at the model's present weights, (P, P), over the risk's own variables.

    With batch statistics the curvature includes the way they follow the weights; running and re-estimated ones count as
    constants. A model whose weights have moved is seen anew at the next product.

    Args:
        risk: on several ranks all must multiply alike.
        keep_graph: keep the gradient's graph of every batch: 2 passes for a product instead of 3. "auto": while it fits into
            half of the free memory.
    """

    def __init__(self, risk: Risk, *, keep_graph: KeepGraph = "auto"):
        self.risk = risk
        self.shape = (risk.dimension, risk.dimension)
        self.dtype = risk.dtype
        self.device = risk.device
        self.products = 0
        """Products so far."""
        self._graphs = Graphs(risk, self._gradient, keep_graph)

    @property
    def is_kept(self) -> bool:
        """Whether the graphs are kept at present."""
        return self._graphs.is_kept

    def __matmul__(self, vector: Tensor) -> Tensor:
        """∇²f(x)·vector, (P,)."""
        directions = unflatten(vector, self.risk.parameters)
        variables = self.risk.parameters

        def term(gradient: list[Tensor | None]) -> list[Tensor]:
            pairs = [(g, d) for g, d in zip(gradient, directions, strict=True) if g is not None]
            if not pairs:  # a loss that is linear in the parameters
                return [torch.zeros_like(p) for p in variables]
            grads, along = zip(*pairs, strict=True)
            return list(torch.autograd.grad(grads, variables, along, retain_graph=True, materialize_grads=True))

        self.products += 1
        return self._graphs.mean(term, passes=2.0)

    def gradient(self) -> Tensor:
        """∇f(x), (P,), from the graphs of the products: where they are kept it costs nothing beside them."""
        variables = self.risk.parameters
        parts = [torch.zeros_like(p) for p in variables]

        def term(gradient: list[Tensor | None]) -> list[Tensor]:
            return [zero if g is None else g.detach() for g, zero in zip(gradient, parts, strict=True)]

        return self._graphs.mean(term, passes=0.0)

    def _gradient(self, inputs: Tensor, targets: Tensor) -> tuple[list[Tensor | None], Tensor | int]:
        """The batch's gradient sum, None where it does not depend on the parameters."""
        value, weight = self.risk.loss_sum(inputs, targets)
        return gradient_graph(value, self.risk.parameters), weight
