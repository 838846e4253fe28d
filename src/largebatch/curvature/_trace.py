"""The trace of a Hessian: exactly where the network allows it, else with an interval.

* "exact": where diag H = diag G (`_linearity`), tr H = tr G from per-example norms (`_exact_trace`).
* "remainder": tr G exactly, and Hutchinson's estimate of tr(H − G), whose variance is that of the small part only.
* "hutch++" (Meyer, Musco, Musco and Woodruff 2021, arXiv 2010.09649, algorithm 1): a third of the products finds a basis Q
  of the range, a third gives tr(Q'HQ), a third estimates what is left,

      tr H ≈ tr(Q'HQ) + (1/m)·Σ_j g_j'(I − QQ')H(I − QQ')g_j,   g_j of random signs.

Given Q the m terms are independent draws with mean tr H − tr(Q'HQ): hence Student's t with m − 1 degrees of freedom.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from largebatch.core import Risk, batch_norm_mode, coupled_layers, generator, progress
from largebatch.curvature._exact_trace import MAX_OUTPUTS, gauss_newton_traces, outputs_per_example
from largebatch.curvature._ggn import GGN
from largebatch.curvature._hessian import Hessian
from largebatch.curvature._linearity import bent_functions
from largebatch.curvature._operator import Operator, as_operator
from largebatch.results import Estimate, Result, mean_interval

__all__ = ["Trace", "hutchpp", "trace"]

Method = Literal["auto", "exact", "remainder", "hutch++"]


@dataclass(frozen=True)
class Trace(Result):
    """A trace with its uncertainty.

    Args:
        value: the trace.
        stderr: its standard error; 0 where it is exact up to rounding.
        low, high: its 95 % interval.
        method: "exact", "remainder" or "hutch++".
        products: with a vector; for the exact part, backward passes of a column.
        note: why this method, and what limits it.
        by_parameter: the trace of each parameter's diagonal block of the Gauss-Newton matrix, where that was computed.
    """

    value: float
    stderr: float
    low: float
    high: float
    method: str
    products: int
    note: str = ""
    by_parameter: dict[str, float] = field(default_factory=dict)


def trace(risk: Risk, *, method: Method = "auto", products: int = 30, seed: int = 0) -> Trace:
    """tr ∇²f at the model's present weights.

    Args:
        method: "auto" takes the first of "exact", "remainder" and "hutch++" that the model allows.
        products: with random vectors, where the method uses them.
        seed: of these.

    Raises:
        ValueError: the model does not allow the method; products too few for an interval.
    """
    if method not in ("auto", "exact", "remainder", "hutch++"):
        raise ValueError(f'method: expected "auto", "exact", "remainder" or "hutch++", got {method!r}')
    if method == "hutch++":
        return hutchpp(Hessian(risk), products, seed)
    obstacle = _obstacle(risk)
    if obstacle and method == "auto":
        return hutchpp(Hessian(risk), products, seed, note=f"not exact: {obstacle}")
    if obstacle:
        raise ValueError(f'trace: {obstacle}: use method="hutch++"')
    bends = _bends(risk) if method != "remainder" else ""
    if bends and method == "exact":
        raise ValueError(
            f"exact trace: expected a network that is piecewise linear in each parameter, but it holds {bends}: "
            'use method="remainder"'
        )
    blocks, columns = gauss_newton_traces(risk)
    value = sum(blocks.values())
    if method != "remainder" and not bends:
        return Trace(value, 0.0, value, value, "exact", columns, "exact up to rounding", blocks)
    rest, spent = _remainder(risk, products, seed)
    low, high = value + rest.low, value + rest.high
    note = f"Gauss-Newton part exact, the rest estimated{f' because of {bends}' if bends else ''}"
    return Trace(value + rest.value, rest.stderr, low, high, "remainder", columns + spent, note, blocks)


def hutchpp(operator: Any, products: int = 30, seed: int = 0, *, note: str = "") -> Trace:
    """The trace of any symmetric operator by Hutch++, with a 95 % t-interval.

    Args:
        operator: anything with `shape` and `@`.
        products: at least 6; a third each for the basis, its own part, and the rest.

    Raises:
        ValueError: products too few for an interval.
    """
    operator = as_operator(operator)
    n, third = operator.shape[0], products // 3
    if third < 2:
        raise ValueError(f"products: expected at least 6, two random vectors in each third, got {products}")
    with progress("trace", 3 * third, "products") as bar:

        def multiply(vectors: Tensor) -> Tensor:
            images = []
            for vector in vectors:
                images.append(operator @ vector)
                bar.update()
            return torch.stack(images)

        size = min(third, n)
        sketch = multiply(_signs(operator, size, seed, "sketch"))
        basis = torch.linalg.qr(sketch.T.double()).Q.T.to(sketch.dtype)  # (size, n)
        known = float((multiply(basis) * basis).sum(dtype=torch.float64))
        if size == n:  # nothing is left
            return Trace(known, 0.0, known, known, "hutch++", 2 * n, "exact up to rounding: the basis spans the space")
        rest = _signs(operator, third, seed, "rest")
        rest = rest - (rest @ basis.T) @ basis
        terms = (multiply(rest) * rest).sum(dim=1, dtype=torch.float64)
    left = mean_interval(terms.tolist())
    return Trace(known + left.value, left.stderr, known + left.low, known + left.high, "hutch++", 3 * third, note)


def _obstacle(risk: Risk) -> str:
    """What forbids per-example norms, in words; the same on all ranks."""
    with batch_norm_mode(risk.model, "batch" if risk.batch_norm == "batch" else "running"):
        coupled = coupled_layers(risk.model)
    if coupled:
        return f"the layers {', '.join(coupled)} mix the examples of a batch"
    sizes = risk.world.gather(torch.tensor([float(outputs_per_example(risk))], device=risk.device))
    if sizes.max() > MAX_OUTPUTS:
        return f"an example has {int(sizes.max())} outputs, a backward pass each, and {MAX_OUTPUTS} are the limit"
    return ""


def _bends(risk: Risk) -> str:
    """What makes the Hessian's trace differ from the Gauss-Newton one, in words; empty on all ranks or on none."""
    bends = ", ".join(bent_functions(risk))
    anywhere = risk.world.sum(torch.tensor([float(bool(bends))], device=risk.device))
    return bends or ("what another rank names" if anywhere else "")


def _remainder(risk: Risk, products: int, seed: int) -> tuple[Estimate, int]:
    """tr(H − G) by Hutchinson's estimator, and the products it took."""
    hessian, gauss_newton = Hessian(risk), GGN(risk)
    terms: list[float] = []
    with progress("trace", products, "products") as bar:
        for vector in _signs(hessian, max(products // 2, 2), seed, "remainder"):
            terms.append(float(vector @ (hessian @ vector - gauss_newton @ vector)))
            bar.update(2)
    return mean_interval(terms), hessian.products + gauss_newton.products


def _signs(operator: Operator, count: int, seed: int, purpose: str) -> Tensor:
    """Random signs, (count, n)."""
    source = generator(seed, f"trace {purpose}")
    bits = torch.randint(2, (count, operator.shape[0]), generator=source, dtype=torch.int8)
    return (2 * bits - 1).to(device=operator.device, dtype=operator.dtype)
