"""How `curvature_speed.py` calls us: nothing is told beyond the tolerance.

Each function takes the work and the number of the round and returns what is to be timed. A risk examines the model at its
first measurement, so each has a new one and the examination is part of the time.
"""

import copy
from functools import partial
from typing import NamedTuple

import numpy as np
from curvature_peers import EPSILON, PLANE_SIDE, Thunk
from curvature_work import LINE_POINTS, Work
from torch import Tensor, nn

from largebatch import curvature, diagnose
from largebatch.core import Risk, cross_entropy


class Eigenvalues(NamedTuple):
    """Ours: (k,) values, and the products they took."""

    values: Tensor
    products: int


def eigenvalues(work: Work, seed: int, *, k: int) -> Thunk:
    """Stopped by its error bounds."""
    risk = _risk(work.model, work)
    return lambda: _eigenvalues(risk, k, None, seed)


def warm_eigenvalue(work: Work, seed: int) -> Thunk:
    """From what was found one update before."""
    before = curvature.lanczos(curvature.Hessian(_risk(work.model, work)), tolerance=1e-3, seed=seed)
    risk = _risk(work.stepped, work)
    return lambda: _eigenvalues(risk, 1, before.start, seed)


def trace(work: Work, seed: int) -> Thunk:
    """It finds out by itself that the network is piecewise linear."""
    risk = _risk(work.model, work)
    return lambda: curvature.trace(risk, seed=seed).value


def density(work: Work, seed: int, *, steps: int) -> Thunk:
    """The answer: nodes."""
    risk = _risk(work.model, work)
    return lambda: np.asarray(curvature.density(curvature.Hessian(risk), steps=steps, probes=1, seed=seed).nodes[0])


def line(work: Work, _: int) -> Thunk:
    """The answer: (25,) losses."""
    measure = partial(
        diagnose.path, work.start, work.model, loss=cross_entropy, train=work.data, points=LINE_POINTS, span=(0.0, 1.0),
        batch_norm="running", batch_size=len(work.inputs),
    )  # fmt: skip
    return lambda: measure().train_loss


def plane(work: Work, seed: int) -> Thunk:
    """The answer: the loss in the middle."""
    risk = _risk(work.model, work)
    middle = PLANE_SIDE // 2
    return lambda: diagnose.plane(risk, points=PLANE_SIDE, seed=seed).train_loss[middle][middle]


def sharpness(work: Work, seed: int, *, kind: str) -> Thunk:
    """The answer: Metric 2.1."""
    risk = _risk(work.model, work)
    return lambda: diagnose.sharpness(risk, kind, epsilon=EPSILON, seed=seed).value


def _eigenvalues(risk: Risk, k: int, start: Tensor | None, seed: int) -> Eigenvalues:
    found = curvature.lanczos(curvature.Hessian(risk), k, tolerance=1e-3, start=start, seed=seed)
    return Eigenvalues(found.values, found.products)


def _risk(model: nn.Module, work: Work) -> Risk:
    return Risk(copy.deepcopy(model), cross_entropy, work.data, batch_size=len(work.inputs))
