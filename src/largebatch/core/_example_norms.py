"""Squared norms of per-example gradients, ‖J_i's_i‖² for each example i, without forming B gradients of P entries.

J_i is the Jacobian of one example's outputs by the parameters, s_i a weight on its outputs: with s_i = ∂l_i/∂z_i it is
the gradient of the example's loss; with the columns of a root of the loss's Hessian it gives the trace of the Gauss-Newton
matrix. One forward pass keeps the inputs of each layer; for every s one backward pass runs to the layers' *outputs* only,
which leaves out the half that forms weight gradients (`_example_rules` does the rest). What no rule covers (other layers,
weights used by hand or shared between kinds of layers) is differentiated example by example, by vmap.
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from largebatch.core._example_rules import RULES, Inputs, Rule, matrix_squared_norms
from largebatch.core._statistics import coupled_layers

__all__ = ["ExampleGradients"]

CHUNK_BYTES = 64 << 20  # of per-example gradients formed at once, where no rule covers a parameter


@dataclass(eq=False)
class _Call:
    """One call of one layer."""

    layer: nn.Module
    rule: Rule
    output: GradientEdge  # not the tensor: a layer that follows may overwrite it
    source: Tensor
    version: int
    inputs: Inputs | None
    normalised: Tensor | None


@dataclass
class _Share:
    """All uses of one parameter, in one role."""

    calls: list[_Call]
    is_matrix: bool
    is_scale: bool
    inputs: Inputs | None = None
    gram: Tensor | None = None


@final
class ExampleGradients:
    """One forward pass, from which squared norms of per-example gradients are taken as often as wanted.

    Args:
        model: in the mode in which it is to be measured.
        parameters: by name, those that count.
        inputs: (n, …), one example each.

    Raises:
        ValueError: layers that couple the examples: then none has a gradient of its own.
    """

    def __init__(self, model: nn.Module, parameters: dict[str, Tensor], inputs: Tensor):
        coupled = coupled_layers(model)
        if coupled:
            raise ValueError(
                f"expected layers that treat examples apart, but {', '.join(coupled)} mix them in this mode: "
                'use batch_norm="running", and batch norms that track running statistics'
            )
        self._model = model
        self._inputs = inputs
        self._parameters = parameters
        calls: list[_Call] = []
        hooks = [layer.register_forward_hook(_recorder(calls)) for layer in model.modules() if type(layer) in RULES]
        try:
            with torch.enable_grad():
                self.outputs: Tensor = model(inputs)
                """(n, …), with their graph."""
        finally:
            for hook in hooks:
                hook.remove()
        uses = _uses(self.outputs, parameters)
        self._shares = self._assign(calls, uses)
        self._calls = list({id(call): call for share in self._shares.values() for call in share.calls}.values())
        self.by_hand = [name for name in parameters if name not in self._shares and uses[name]]
        """Names of the parameters without a rule, which cost a gradient per example."""

    def squared_norms(self, weights: Tensor) -> dict[str, Tensor]:
        """‖∂(s_i·z_i)/∂p‖², (n,) by the parameter's name.

        Args:
            weights: s, shaped as the outputs.
        """
        found = {name: weights.new_zeros(len(weights)) for name in self._parameters}
        if self._calls:
            edges = [call.output for call in self._calls]
            grads = torch.autograd.grad(self.outputs, edges, weights, retain_graph=True)
            deltas = {id(call): delta for call, delta in zip(self._calls, grads, strict=True)}
            with torch.no_grad():
                found |= {name: _squared_norm(share, deltas) for name, share in self._shares.items()}
        return found | (self._differentiated(weights) if self.by_hand else {})

    def _assign(self, calls: list[_Call], uses: dict[str, int]) -> dict[str, _Share]:
        """Which calls make up the gradient of which parameter: only where they are all of its uses, and of one kind."""
        names = {id(p): name for name, p in self._parameters.items()}
        found: dict[str, list[tuple[_Call, str]]] = {}
        for call in calls:
            for role in ("weight", "bias"):
                name = names.get(id(getattr(call.layer, role, None)))
                if name is not None:
                    found.setdefault(name, []).append((call, role))
        shares: dict[str, _Share] = {}
        for name, pairs in found.items():
            mine = [call for call, _ in pairs]
            kinds = {(type(call.layer), role) for call, role in pairs}
            is_read = all(
                call.source._version == call.version and len(call.source) == len(self._inputs) for call in mine
            )
            if len(kinds) == 1 and len(mine) == uses[name] and is_read:
                is_weight = pairs[0][1] == "weight"
                is_matrix = is_weight and mine[0].rule.inputs is not None
                shares[name] = _Share(mine, is_matrix, is_weight and not is_matrix)
                if is_matrix:
                    _join(shares[name])
        return shares

    def _differentiated(self, weights: Tensor) -> dict[str, Tensor]:
        chosen = {name: self._parameters[name].detach() for name in self.by_hand}

        def norms(x: Tensor, s: Tensor) -> dict[str, Tensor]:
            def weighted(parameters: dict[str, Tensor]) -> Tensor:
                return (torch.func.functional_call(self._model, parameters, (x[None],))[0] * s).sum()

            return {name: grad.square().sum() for name, grad in torch.func.grad(weighted)(chosen).items()}

        bytes_each = sum(p.nbytes for p in chosen.values())
        chunk = max(1, CHUNK_BYTES // bytes_each)
        with torch.no_grad():  # of the other parameters, which vmap's own gradients do not concern
            return torch.func.vmap(norms, chunk_size=chunk)(self._inputs, weights)


def _recorder(calls: list[_Call]) -> Any:
    def see(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        rule = RULES[type(layer)]
        if len(inputs) == 1 and output.requires_grad and rule.is_covered(layer):
            x = inputs[0].detach()
            kept = rule.inputs(layer, x) if rule.inputs else None
            normalised = rule.normalised(layer, x) if rule.normalised else None
            calls.append(_Call(layer, rule, get_gradient_edge(output), x, x._version, kept, normalised))

    return see


def _join(share: _Share) -> None:
    """The sum over all calls is one sum over t; its Gram matrix serves every s."""
    first, *others = [call.inputs for call in share.calls]
    for other in others:
        first = first.join(other)  # pyright: ignore[reportArgumentType, reportOptionalMemberAccess]
    assert first is not None
    share.inputs = first
    if first.prefers_gram():
        share.gram = first.gram()


def _squared_norm(share: _Share, deltas: dict[int, Tensor]) -> Tensor:
    """(n,)."""
    rule = share.calls[0].rule
    if share.is_matrix:
        assert share.inputs is not None
        assert rule.delta is not None
        parts = [rule.delta(call.layer, deltas[id(call)]) for call in share.calls]
        return matrix_squared_norms(share.inputs, share.gram, parts[0] if len(parts) == 1 else torch.cat(parts, dim=2))
    total: Tensor | None = None
    for call in share.calls:
        delta = deltas[id(call)]
        part = rule.summed(
            call.layer, delta if call.normalised is None or not share.is_scale else delta * call.normalised
        )
        total = part if total is None else total + part
    assert total is not None
    return total.flatten(1).square().sum(dim=1)


def _uses(outputs: Tensor, parameters: dict[str, Tensor]) -> dict[str, int]:
    """How often each parameter enters the graph of the outputs: a hook sees calls of layers, not uses by hand."""
    names = {id(p): name for name, p in parameters.items()}
    counts = dict.fromkeys(parameters, 0)
    pending: list[Node] = [] if outputs.grad_fn is None else [outputs.grad_fn]
    seen = set(pending)
    while pending:
        for child, _ in pending.pop().next_functions:
            name = names.get(id(getattr(child, "variable", None)))
            if name is not None:
                counts[name] += 1
            elif child is not None and child not in seen:
                seen.add(child)
                pending.append(child)
    return counts
