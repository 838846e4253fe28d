"""What `curvature_speed.py` measures on: two trained networks, a subset of Fashion-MNIST, and float64 reference values.

F1 (five hidden layers of 512, batch norm; 1,462,794 parameters) and a small convolutional network (24,170), both after 200
updates of SGD (batch 128, lr 0.05, momentum 0.9). Curvature is that of the mean cross-entropy over 2,048 training samples,
in evaluation mode, in one batch: that is what the peers take.

The unit of cost U is one forward and backward pass over these samples as plain PyTorch makes it; F is a forward alone.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from backpack import backpack, extend  # pyright: ignore[reportMissingImports]
from backpack.extensions import DiagGGNExact  # pyright: ignore[reportMissingImports]
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn import functional as F

from largebatch import tasks

NETS: tuple[str, ...] = ("F1", "conv")
BATCH_SIZE, LR, MOMENTUM = 128, 0.05, 0.9
LINE_POINTS = 25
UNIT_REPEATS = 3


@dataclass(frozen=True)
class Work:
    """A trained network and the samples on which its curvature is measured."""

    name: str
    start: nn.Module
    """Where the line begins: the initial weights, with the batch-norm statistics of `model`."""
    model: nn.Module
    """Trained, in evaluation mode."""
    stepped: nn.Module
    """One update later."""
    inputs: Tensor
    targets: Tensor

    @property
    def data(self) -> tuple[Tensor, Tensor]:
        """The subset."""
        return self.inputs, self.targets

    @property
    def dimension(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def eigenvalues(self) -> np.ndarray:
        """The five largest, (5,), descending, in float64 by ARPACK."""
        return self._arpack(self.model, 5)

    @cached_property
    def largest_eigenvalue(self) -> float:
        """In float64 by ARPACK."""
        return float(self._arpack(self.model, 1)[0])

    @cached_property
    def stepped_eigenvalue(self) -> float:
        """The largest one update later, in float64 by ARPACK."""
        return float(self._arpack(self.stepped, 1)[0])

    @cached_property
    def trace(self) -> float:
        """Exact, in float64 by BackPACK: with ReLU the diagonals of Hessian and generalised Gauss-Newton matrix agree."""
        torch.set_default_dtype(torch.float64)  # in which BackPACK makes its filters for pooling
        try:
            return exact_trace(copy.deepcopy(self.model).double(), self.inputs.double(), self.targets)
        finally:
            torch.set_default_dtype(torch.float32)

    @cached_property
    def line(self) -> np.ndarray:
        """The loss at 25 points from `start` to `model`, both included, in float64."""
        moving = copy.deepcopy(self.start).double()
        ends = [[p.detach().double() for p in net.parameters()] for net in (self.start, self.model)]
        losses = []
        for alpha in np.linspace(0.0, 1.0, LINE_POINTS):
            with torch.no_grad():
                for p, a, b in zip(moving.parameters(), *ends, strict=True):
                    p.copy_(torch.lerp(a, b, float(alpha)))
                losses.append(F.cross_entropy(moving(self.inputs.double()), self.targets).item())
        return np.array(losses)

    @cached_property
    def loss(self) -> float:
        """At the trained weights, in float64."""
        with torch.no_grad():
            return F.cross_entropy(copy.deepcopy(self.model).double()(self.inputs.double()), self.targets).item()

    def units(self, clock: Callable[[], float]) -> tuple[list[float], list[float]]:
        """Seconds of U and of F on a clock, each a few times."""
        parameters = list(self.model.parameters())

        def both() -> None:
            torch.autograd.grad(F.cross_entropy(self.model(self.inputs), self.targets), parameters)

        @torch.no_grad()
        def forward() -> None:
            F.cross_entropy(self.model(self.inputs), self.targets)

        return _seconds(both, clock), _seconds(forward, clock)

    def _arpack(self, model: nn.Module, k: int) -> np.ndarray:
        """(k,) largest eigenvalues of the Hessian, descending."""
        model = copy.deepcopy(model).double()
        parameters = list(model.parameters())
        loss = F.cross_entropy(model(self.inputs.double()), self.targets)
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])

        def product(vector: np.ndarray) -> np.ndarray:
            parts = torch.autograd.grad(gradient, parameters, torch.from_numpy(vector.ravel()), retain_graph=True)
            return torch.cat([part.reshape(-1) for part in parts]).numpy()

        operator = LinearOperator((self.dimension, self.dimension), matvec=product, dtype=np.float64)  # pyright: ignore
        start = np.random.default_rng(0).standard_normal(self.dimension)
        found = eigsh(operator, k, which="LA", tol=1e-5, v0=start, return_eigenvectors=False)  # pyright: ignore
        return np.sort(found)[::-1]


def exact_trace(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """By BackPACK, as its documentation does; the model is changed."""
    model, criterion = extend(model), extend(nn.CrossEntropyLoss())
    with backpack(DiagGGNExact()):
        criterion(model(inputs), targets).backward()
    diagonals: list[Any] = [getattr(p, "diag_ggn_exact") for p in model.parameters()]  # noqa: B009
    return sum(float(diagonal.sum()) for diagonal in diagonals)


def prepare(name: str, samples: int, updates: int) -> Work:
    """Train the network of this name, from the same weights on the same batches at each call."""
    inputs, targets = tasks.get("fashion-mnist/f1").train
    assert isinstance(inputs, Tensor)
    assert isinstance(targets, Tensor)
    torch.manual_seed(0)
    model = tasks.f1() if name == "F1" else convolutions()
    start = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=MOMENTUM)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    kept: list[nn.Module] = []
    for update in range(updates + 1):
        if update == updates:
            kept.append(copy.deepcopy(model).eval())
        batch = order[update * BATCH_SIZE : (update + 1) * BATCH_SIZE]
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()
    optimizer.zero_grad()
    trained = kept[0]
    for parameter in trained.parameters():
        parameter.grad = None
    for mine, theirs in zip(start.buffers(), trained.buffers(), strict=True):
        mine.copy_(theirs)
    return Work(name, start.eval(), trained, model.eval(), inputs[:samples].clone(), targets[:samples].clone())


def convolutions(classes: int = 10) -> nn.Module:
    """Three convolutions of stride 2 with batch norm, averaged over the pixels. Inputs (n, 1, 28, 28)."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def _seconds(action: Callable[[], None], clock: Callable[[], float]) -> list[float]:
    found: list[float] = []
    for _ in range(UNIT_REPEATS):
        begun = clock()
        action()
        found.append(clock() - begun)
    return found
