"""The trace of the Gauss-Newton matrix, exactly: tr G = Σ_i Σ_c ‖J_i's_ic‖² / Σ_i w_i.

The s_ic are the columns of a root of the loss's Hessian by the outputs, H_L,i = Σ_c ±s_ic·s_ic' (Dangel, Tatzel and Hennig
2022, arXiv 2106.02624, compute curvature from such a root; for softmax cross-entropy it may be √p_c·(e_c − p)). Here it is
the symmetric one, √|λ|·u, of any loss: it needs one column fewer for cross-entropy, whose Hessian has rank C − 1, and keeps
the sign of a loss that is not convex. One column costs a backward pass without weight gradients, for all samples at once.
"""

import torch
from torch import Tensor

from largebatch.core import ExampleGradients, Risk, progress, total, weigh
from largebatch.curvature._graphs import twice_differentiable

__all__ = ["MAX_OUTPUTS", "gauss_newton_traces", "outputs_per_example"]

MAX_OUTPUTS = 128  # per example: as many columns, and the eigenvalues of so large a matrix for each
PASS_SAMPLES = 256  # small enough for the layers' inputs and their products to stay near the processor


def outputs_per_example(risk: Risk) -> int:
    """C, from one sample; 0 on a rank without samples."""
    for inputs, _ in risk.batches():
        with risk.measuring(), torch.no_grad():
            return risk.model(inputs[:2])[0].numel()
    return 0


def gauss_newton_traces(risk: Risk) -> tuple[dict[str, float], int]:
    """The trace of each parameter's diagonal block of G, and the largest number of columns.

    Raises:
        ValueError: more outputs than MAX_OUTPUTS; layers that couple examples; per-example norms that a plain gradient
            contradicts.
    """
    named = dict(zip(risk.names, risk.parameters, strict=True))
    sums = torch.zeros(len(named) + 1, dtype=torch.float64, device=risk.device)  # each parameter's; weight
    most = 0
    with risk.measuring(), twice_differentiable(), progress("trace", risk.samples, "samples") as bar:
        for inputs, targets in risk.pieces(PASS_SAMPLES, outweighed=0):
            examples = ExampleGradients(risk.model, named, inputs)
            columns, weight = _root(risk, examples.outputs.detach(), targets)
            if most == 0:
                _verify(risk, examples, inputs[:1], torch.ones_like(examples.outputs))
            for column, sign in columns:
                norms = examples.squared_norms(column)
                sums[:-1] += torch.stack([(sign * norms[name]).sum() for name in named])
            sums[-1] += weight
            most = max(most, len(columns))
            bar.update(len(inputs))
    risk.passes += (1 + most) / 3
    *traces, weight = risk.world.sum(sums).tolist()
    return {name: trace / weight for name, trace in zip(named, traces, strict=True)}, most


def _root(risk: Risk, outputs: Tensor, targets: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor | int]:
    """Columns √|λ|·u, shaped as the outputs, each with the signs of λ (n,); and the weight of the samples."""
    n, size = len(outputs), outputs[0].numel()
    if size > MAX_OUTPUTS:
        raise ValueError(
            f"exact trace: expected at most {MAX_OUTPUTS} outputs per example, got {size}, each of which costs a backward "
            'pass: use method="hutch++"'
        )
    outputs.requires_grad_()
    value, weight = total(*weigh(risk.loss(outputs, targets), n))
    (slope,) = torch.autograd.grad(value, outputs, create_graph=True, materialize_grads=True)
    if not slope.requires_grad:  # a loss linear in the outputs
        return [], weight
    rows = [
        torch.autograd.grad(slope.reshape(n, -1)[:, c].sum(), outputs, retain_graph=True)[0].reshape(n, -1)
        for c in range(size)
    ]
    values, vectors = torch.linalg.eigh(torch.stack(rows, dim=1).double())  # (n, C), (n, C, C)
    largest = values.abs().amax(dim=0)
    kept = [c for c in range(size) if largest[c] > 100 * torch.finfo(outputs.dtype).eps * largest.max()]
    roots = vectors * values.abs().sqrt()[:, None, :]
    return [(roots[:, :, c].reshape(outputs.shape).to(outputs.dtype), values[:, c].sign()) for c in kept], weight


def _verify(risk: Risk, examples: ExampleGradients, first: Tensor, weights: Tensor) -> None:
    """One example's norms by a plain gradient: layers that do not see examples along the first axis would show here."""
    outputs = risk.model(first)
    grads = torch.autograd.grad((outputs * weights[:1]).sum(), risk.parameters, materialize_grads=True)
    norms = examples.squared_norms(weights)
    tolerance = 100 * torch.finfo(risk.dtype).eps ** 0.5
    largest = max(float(g.square().sum()) for g in grads)
    wrong = [
        name
        for name, g in zip(risk.names, grads, strict=True)
        if abs(float(norms[name][0] - g.square().sum())) > tolerance * largest
    ]
    if wrong:
        raise ValueError(
            f"exact trace: the per-example gradients of {', '.join(wrong)} contradict the gradient of one example alone: "
            'expected a model whose layers see the examples along their first axis; use method="hutch++"'
        )
