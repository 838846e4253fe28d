"""Is the network piecewise linear in each of its parameters? Then diag H = diag G, and the trace can be had exactly.

With z(x) linear in one parameter x_j while the others stay, ∂²z/∂x_j² = 0, and of H = G + Σ_c ∂L/∂z_c·∂²z_c/∂x² the
diagonal is that of the Gauss-Newton matrix G. Rectifiers and pooling are linear almost everywhere; layers multiply a
parameter by what other parameters made. Two checks, for a mistake here would be a wrong number without a sign: the functions
in the graph, by name, and on a few samples v'Hv = v'Gv for random v within one parameter.
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.graph import Node

from largebatch.core import Risk, generator, total, weigh
from largebatch.curvature._graphs import twice_differentiable

__all__ = ["bent_functions"]

PIECEWISE_LINEAR = {
    "Abs", "AdaptiveAvgPool2D", "AdaptiveMaxPool2D", "Add", "Alias", "Amax", "Amin", "AsStrided", "AvgPool2D",
    "Cat", "Clamp", "ClampMax", "ClampMin", "Clone", "ConstantPadNd", "CopySlices", "Embedding", "Expand", "Gather",
    "Hardtanh", "Index", "IndexSelect", "LeakyRelu", "Max", "MaxPool2DWithIndices", "Maximum", "Mean", "Min",
    "Minimum", "Neg", "Permute", "ReflectionPad1D", "ReflectionPad2D", "Relu", "Repeat", "ReplicationPad1D",
    "ReplicationPad2D", "ReshapeAlias", "Rsub", "Select", "Slice", "Softshrink", "Split", "SplitWithSizes",
    "Squeeze", "Stack", "Sub", "Sum", "T", "Threshold", "ToCopy", "Transpose", "UnsafeView", "Unsqueeze",
    "UpsampleNearest2D", "View", "Where",
}  # fmt: skip

PRODUCTS = {
    "Addbmm", "Addmm", "Addmv", "Baddbmm", "Bmm", "Convolution", "CudnnBatchNorm", "Dot", "Mm", "Mul", "Mv",
    "NativeBatchNorm", "PreluKernel",
}  # fmt: skip
"""Linear in each operand: allowed where no parameter enters two of them."""

EXAMINED_SAMPLES = 4
EXAMINED_PARAMETERS = 4  # the first of all lies below every function of a chain


def bent_functions(risk: Risk) -> list[str]:
    """What makes diag H differ from diag G, in words; empty where nothing does. Runs on a few of this rank's samples."""
    for inputs, targets in risk.batches():
        few = inputs[:EXAMINED_SAMPLES], targets[:EXAMINED_SAMPLES]
        with risk.measuring(), twice_differentiable():
            return _by_name(risk.model(few[0]), risk.parameters) or _by_number(risk, *few)
    return []


def _by_name(outputs: Tensor, parameters: list[Tensor]) -> list[str]:
    """Functions between parameters and outputs that bend, or multiply a parameter by itself."""
    counted = {id(p) for p in parameters}
    below: dict[Node, frozenset[int]] = {}  # the parameters that each function depends on
    found: dict[str, None] = {}
    for node in _operands_first(outputs.grad_fn):
        operands = [frozenset() if child is None else below[child] for child, _ in node.next_functions]
        variable = getattr(node, "variable", None)
        below[node] = frozenset({id(variable)} & counted).union(*operands)
        name = re.sub(r"Backward\d*$", "", node.name().split("::")[-1])
        if variable is not None or not below[node] or name in PIECEWISE_LINEAR:
            continue
        if name in PRODUCTS and not getattr(node, "_saved_training", False):
            if sum(map(len, operands)) > len(below[node]):
                found[f"{name} of a parameter by itself"] = None
        elif name != "Div" or operands[1]:
            found[name] = None
    return list(found)


def _operands_first(root: Node | None) -> Iterator[Node]:
    """Every function of a graph once, after all it reads."""
    pending = [] if root is None else [(root, False)]
    done: set[Node] = set()
    while pending:
        node, is_expanded = pending.pop()
        if node in done:
            continue
        if is_expanded:
            done.add(node)
            yield node
        else:
            pending.append((node, True))
            pending += [(child, False) for child, _ in node.next_functions if child is not None and child not in done]


def _by_number(risk: Risk, inputs: Tensor, targets: Tensor) -> list[str]:
    """Parameters p for which v'Hv differs from v'Gv, v random within p."""
    outputs = risk.model(inputs)
    inner = outputs.detach().requires_grad_()
    value = total(*weigh(risk.loss(outputs, targets), len(inputs)))[0]
    inner_value = total(*weigh(risk.loss(inner, targets), len(inputs)))[0]
    (slope,) = torch.autograd.grad(inner_value, inner, create_graph=True)
    cotangent = torch.ones_like(outputs).requires_grad_()
    found: list[str] = []
    for index in range(0, len(risk.names), max(1, len(risk.names) // EXAMINED_PARAMETERS)):
        name, p = risk.names[index], risk.parameters[index]
        v = torch.randn(p.shape, generator=generator(0, "linearity", index), dtype=p.dtype).to(p.device)
        (gradient,) = torch.autograd.grad(value, p, create_graph=True, materialize_grads=True)
        (pulled,) = torch.autograd.grad(outputs, p, cotangent, create_graph=True, materialize_grads=True)
        if not pulled.requires_grad or not gradient.requires_grad:
            continue
        (image,) = torch.autograd.grad(gradient, p, v, retain_graph=True, materialize_grads=True)
        (pushed,) = torch.autograd.grad(pulled, cotangent, v, retain_graph=True)
        curved = torch.autograd.grad(slope, inner, pushed, retain_graph=True)[0] if slope.requires_grad else 0 * pushed
        difference = float((v * image).sum() - (pushed * curved).sum())
        if abs(difference) > torch.finfo(p.dtype).eps ** 0.5 * float(v.norm() * image.norm()):
            found.append(f"{name}: v'Hv differs from v'Gv by {difference:.3g}")
    return found
