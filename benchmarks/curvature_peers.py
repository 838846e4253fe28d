"""How `curvature_speed.py` calls the peers: as their documentation does, with the settings that reach the tolerance soonest.

Where a default misses the tolerance, the setting that reaches it was picked by hand, knowing the answer; a user without
the answer cannot. Each function takes the work and the number of the round and returns what is to be timed; copies that
keep one contender's changes from the next are made outside the clock.

* PyHessian 0.1: one batch, whose gradient graph it keeps. Its `density` calls `torch.eig`, which torch has removed; it is
  given back here, so that there is something to compare with.
* hessian-eigenthings 1.0.0a5: `lanczos` runs as many steps as it is told, twice k by default, without a look at the error.
* curvlinops 3.0.1: its operator with ARPACK, as its documentation shows.
* BackPACK 1.7.1, nngeometry 0.4: exact diagonals.
* loss-landscapes 3.0.6: lines and planes.
* scipy's L-BFGS-B on Metric 2.1 (Keskar et al. 2017, arXiv 1609.04836): nobody ships it, so as people write it.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import hessian_eigenthings as eigenthings  # pyright: ignore[reportMissingImports]
import loss_landscapes  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from curvature_work import LINE_POINTS, Work, exact_trace
from curvlinops import HessianLinearOperator  # pyright: ignore[reportMissingImports]
from curvlinops.papyan2020traces.spectrum import (  # pyright: ignore[reportMissingImports]
    lanczos_approximate_spectrum,
)
from loss_landscapes.metrics import Loss as LandscapeLoss  # pyright: ignore[reportMissingImports]
from nngeometry.metrics import FIM  # pyright: ignore[reportMissingImports]
from nngeometry.object import PMatDiag  # pyright: ignore[reportMissingImports]
from pyhessian import hessian as PyHessian  # pyright: ignore[reportMissingImports]
from scipy.optimize import Bounds, minimize
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

Thunk = Callable[[], Any]  # what is timed: returns the answer
Contender = Callable[[Work, int], Thunk]  # work, round
PLANE_SIDE = 11
EPSILON, ITERATIONS = 1e-3, 10


def pyhessian_eigenvalues(
    work: Work, seed: int, *, k: int, tolerance: dict[str, float], stepped: bool = False
) -> Thunk:
    """Power iteration with deflation. The answer: (k,) eigenvalues, sorted here; PyHessian does not."""
    model = copy.deepcopy(work.stepped if stepped else work.model)

    def run() -> np.ndarray:
        torch.manual_seed(seed)
        hessian = PyHessian(model, nn.CrossEntropyLoss(), data=work.data, cuda=False)
        values, _ = hessian.eigenvalues(maxIter=1000, tol=tolerance[work.name], top_n=k)
        return np.sort(values)[::-1]

    return run


def pyhessian_trace(work: Work, seed: int) -> Thunk:
    """Hutchinson, default stopping."""
    model = copy.deepcopy(work.model)

    def run() -> float:
        torch.manual_seed(seed)
        return float(np.mean(PyHessian(model, nn.CrossEntropyLoss(), data=work.data, cuda=False).trace()))

    return run


def pyhessian_density(work: Work, seed: int, *, steps: int) -> Thunk:
    """The answer: nodes."""
    model = copy.deepcopy(work.model)

    def run() -> np.ndarray:
        torch.manual_seed(seed)
        with patch("torch.eig", _eig, create=True):
            hessian = PyHessian(model, nn.CrossEntropyLoss(), data=work.data, cuda=False)
            nodes, _ = hessian.density(iter=steps, n_v=1)
        return np.array(nodes[0])

    return run


def _eig(matrix: Tensor, *, eigenvectors: bool) -> tuple[Tensor, Tensor]:
    """As torch.eig was, for a symmetric matrix: eigenvalues as (n, 2) real and imaginary parts."""
    assert eigenvectors
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], 1), vectors


def eigenthings_lanczos(work: Work, seed: int, *, k: int, steps: int) -> Thunk:
    """As many steps as told. The answer: (k,) eigenvalues."""
    operator = _eigenthings_operator(work)
    return lambda: eigenthings.lanczos(operator, k=k, max_iter=steps, which="LA", seed=seed).eigenvalues


def eigenthings_density(work: Work, seed: int, *, steps: int) -> Thunk:
    """One probe. The answer: nodes."""
    operator = _eigenthings_operator(work)

    def run() -> np.ndarray:
        found = eigenthings.spectral_density(operator, num_runs=1, lanczos_steps=steps, seed=seed)
        return found.raw_eigenvalues[0].numpy()

    return run


def _eigenthings_operator(work: Work) -> Any:
    loss = eigenthings.supervised_loss(F.cross_entropy)
    return eigenthings.HessianOperator(copy.deepcopy(work.model), [work.data], loss)


def curvlinops_eigsh(work: Work, seed: int, *, k: int) -> Thunk:
    """ARPACK at the tolerance of SciPy's and curvlinops' examples. The answer: (k,) eigenvalues."""
    model = copy.deepcopy(work.model)
    start = np.random.default_rng(seed).standard_normal(work.dimension).astype(np.float32)

    def run() -> np.ndarray:
        operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), [work.data])
        found = eigsh(operator.to_scipy(), k, which="LA", tol=1e-2, v0=start, return_eigenvectors=False)  # pyright: ignore
        return np.sort(found)[::-1]

    return run


def curvlinops_density(work: Work, seed: int, *, steps: int) -> Thunk:
    """It returns a smoothed density without its nodes: no answer that could be compared."""
    model = copy.deepcopy(work.model)

    def run() -> None:
        torch.manual_seed(seed)
        operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), [work.data])
        lanczos_approximate_spectrum(operator, ncv=steps)

    return run


def backpack_trace(work: Work, _: int) -> Thunk:
    """Exact."""
    model = copy.deepcopy(work.model)
    return partial(exact_trace, model, work.inputs, work.targets)


def nngeometry_trace(work: Work, _: int) -> Thunk:
    """Exact: the Fisher matrix of a softmax is the generalised Gauss-Newton matrix of cross-entropy."""
    model = copy.deepcopy(work.model)
    loader = DataLoader(TensorDataset(*work.data), batch_size=len(work.inputs))
    return lambda: float(FIM(model, loader, PMatDiag, variant="classif_logits").trace())


def landscapes_line(work: Work, _: int) -> Thunk:
    """The answer: (25,) losses, meant to be those between the two networks."""
    start, end = copy.deepcopy(work.start), copy.deepcopy(work.model)
    loss = LandscapeLoss(F.cross_entropy, *work.data)
    return lambda: loss_landscapes.linear_interpolation(start, end, loss, steps=LINE_POINTS)


def landscapes_plane(work: Work, seed: int) -> Thunk:
    """The answer: the loss in the middle of the plane, meant to be that of the network."""
    model = copy.deepcopy(work.model)
    loss = LandscapeLoss(F.cross_entropy, *work.data)

    def run() -> float:
        torch.manual_seed(seed)
        found = loss_landscapes.random_plane(model, loss, distance=1, steps=PLANE_SIDE, normalization="filter")
        return float(found[PLANE_SIDE // 2, PLANE_SIDE // 2])

    return run


def scipy_metric_2_1(work: Work, _: int) -> Thunk:
    """100 (max f − f(x)) / (1 + f(x)) over |yᵢ| ≤ ε (|xᵢ| + 1), f at x + y: 10 iterations of L-BFGS-B from x itself."""
    model = copy.deepcopy(work.model)
    parameters = list(model.parameters())
    losses: list[float] = []

    def negative(point: np.ndarray) -> tuple[float, np.ndarray]:
        nn.utils.vector_to_parameters(torch.from_numpy(point).float(), parameters)
        loss = F.cross_entropy(model(work.inputs), work.targets)
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)])
        losses.append(loss.item())
        return -losses[-1], -gradient.double().numpy()

    def run() -> float:
        origin = nn.utils.parameters_to_vector(parameters).detach().double().numpy()
        radius = EPSILON * (np.abs(origin) + 1.0)
        box = Bounds(origin - radius, origin + radius)  # pyright: ignore[reportArgumentType]
        found = minimize(negative, origin, jac=True, method="L-BFGS-B", bounds=box, options={"maxiter": ITERATIONS})
        return 100.0 * (-found.fun - losses[0]) / (1.0 + losses[0])

    return run
