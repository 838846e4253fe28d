"""Looks: an observer that measures, at few moments of a run, how good its gradients are and how curved its loss is.

At the weights after an update, in one pass over up to `samples` training samples with batch norm as in training, the
gradients g_i of ghosts (or of batches, where statistics are the whole batch's) give

    batch_cosine    cos(g_batch, g_full), mean over batches: how accurate a training gradient is
    noise_scale     tr(Σ)/|G|², from the |g_i|² (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1)
    step_cosine     cos(g_t, g_{t+j}) of full gradients, with the last look: Goyal et al. 2017's assumption (arXiv
                    1706.02677, section 2.1) that a gradient stays what it was; `step_samples` were seen between

and, at some of them, λ_max and η·λ_max (2 is the edge of stability of plain gradient descent; momentum and Adam have
others).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import Subset

from largebatch.comparison import Measures
from largebatch.core import EpochView, Partials, Request, Risk, View, data_size, flatten, generator
from largebatch.curvature import Hessian, lanczos
from largebatch.noise import noise_and_signal
from largebatch.recipe import Recipe, Timeline

__all__ = ["Looks", "look_updates"]

MOST_BATCHES = 8  # whose gradients are held at once
TOLERANCE, MAX_PRODUCTS = 2e-2, 20  # of Lanczos


def look_updates(recipe: Recipe, train_size: int, measures: Measures) -> dict[int, bool]:
    """Update → whether curvature is looked at too. Counted over all phases; the last update stands for the end."""
    timelines = [Timeline(phase, train_size) for phase in _phases(recipe)]
    total = sum(timeline.total_updates for timeline in timelines)
    first = timelines[0]

    def after(epochs: tuple[float, ...], shares: tuple[float, ...]) -> set[int]:
        early = {first.updates_until(epoch * train_size) - 1 for epoch in epochs}
        late = {round(share * total) - 1 for share in shares}
        return {min(max(update, 0), total - 1) for update in early | late}

    curved = after(measures.curvature_epochs, measures.curvature_shares)
    return {
        update: update in curved
        for update in sorted(curved | after(measures.look_epochs, measures.look_shares))
    }  # fmt: skip


@final
class Looks:
    """See the file's head.

    Args:
        updates: when → whether to find λ_max as well.
        chunk: samples whose gradients are taken apart: the ghost, or the batch where there are no ghosts.
        batch_size: of training.
        samples, curvature_samples: of the training data, always the same ones.
        seed: of these.
    """

    name = "looks"

    def __init__(
        self,
        updates: Mapping[int, bool],
        *,
        chunk: int,
        batch_size: int,
        samples: int,
        curvature_samples: int,
        seed: int,
    ):
        self.updates = dict(updates)
        self._chunk, self._batch_size = chunk, batch_size
        self._samples, self._curvature_samples, self._seed = samples, curvature_samples, seed
        self._last: Tensor | None = None
        self._last_samples = 0
        self.rows: list[dict[str, Any]] = []

    def wants(self, update: int) -> Request | None:
        """The risk, at the chosen updates."""
        return Request(risk=True) if update in self.updates else None

    def see(self, view: View) -> None:
        """Measure at the weights after the update; nothing where they, or their loss, have left the finite numbers."""
        risk = view.risk
        assert risk is not None
        try:
            values, full = self._gradients(risk, view.update)
        except ValueError:  # a risk refuses such weights, and `fit` will say that the run diverged
            return
        if self._last is not None:
            values |= {
                "step_cosine": _cosine(self._last, full),
                "step_samples": float(view.samples - self._last_samples),
            }
        self._last, self._last_samples = full, view.samples
        if self.updates[view.update]:
            values |= self._curvature(risk, view.lr)
        row = {"update": view.update, "epoch": view.epoch, "samples": view.samples, "lr": view.lr}
        self.rows.append(row | {"values": {name: float(value) for name, value in values.items()}})

    def see_epoch(self, view: EpochView) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, and the last gradient."""
        return {"rows": [dict(row) for row in self.rows], "last": self._last, "last_samples": self._last_samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the last look."""
        self.rows = [dict(row) for row in state["rows"]]
        self._last, self._last_samples = state["last"], state["last_samples"]

    def _gradients(self, risk: Risk, update: int) -> tuple[dict[str, float], Tensor]:
        """What one pass tells, and the full gradient (P,)."""
        here = self._shuffled(risk, update)
        each = max(1, self._batch_size // self._chunk)  # chunks in a batch
        summed = torch.zeros(risk.dimension, dtype=risk.dtype, device=risk.device)
        counts: list[int] = []
        norms: list[Tensor] = []
        batches: list[Tensor] = []
        for count, gradient in _chunk_gradients(here):  # of loss sums
            if len(counts) % each == 0 and len(batches) < MOST_BATCHES:
                batches.append(torch.zeros_like(summed))
            if len(counts) < each * len(batches):
                batches[-1] += gradient
            summed += gradient
            counts.append(count)
            norms.append((gradient / count).square().sum())
        full = summed / sum(counts)
        found = {
            "gradient_norm": float(full.norm()),
            "batch_cosine": sum(_cosine(batch, full) for batch in batches) / len(batches),
        }
        if len(counts) > 1:
            whole = full.square().sum().double()
            partials = Partials(torch.tensor(counts).double(), torch.stack(norms).double(), whole)
            trace, signal = noise_and_signal(partials, train_size=risk.samples)
            found["noise_scale"] = float(trace / signal) if signal > 0 else math.nan
        return found, full

    def _shuffled(self, risk: Risk, update: int) -> Risk:
        """The risk on the samples that are looked at, in a new order, in chunks."""
        data = risk.subset(self._samples, self._seed).data
        order = torch.randperm(data_size(data), generator=generator(self._seed, "looks", update))
        order = order[:-1] if len(order) % self._chunk == 1 and len(order) > 1 else order  # one has no statistics
        part = (data[0][order], data[1][order]) if isinstance(data, tuple) else Subset(data, order.tolist())
        return Risk(risk.model, risk.loss, part, batch_norm="batch", batch_size=self._chunk)

    def _curvature(self, risk: Risk, lr: float) -> dict[str, float]:
        part = risk.subset(self._curvature_samples, self._seed)
        size = min(part.samples, max(self._chunk, part.samples // self._chunk * self._chunk))
        here = Risk(part.model, part.loss, part.data, batch_norm="batch", batch_size=size)
        found = lanczos(
            Hessian(here), tolerance=TOLERANCE, max_products=min(MAX_PRODUCTS, here.dimension), seed=self._seed
        )
        value = float(found.values[0])
        return {"lambda_max": value, "lambda_max_bound": float(found.bounds[0]), "sharpness_times_lr": lr * value}


def _chunk_gradients(risk: Risk) -> Iterator[tuple[int, Tensor]]:
    """Samples and gradient (P,) of the loss sum of each batch of the risk, with its own batch-norm statistics."""
    with risk.measuring(), torch.enable_grad():
        for inputs, targets in risk.batches():
            value, _ = risk.loss_sum(inputs, targets)
            yield len(inputs), flatten(torch.autograd.grad(value, risk.parameters, materialize_grads=True))


def _cosine(u: Tensor, v: Tensor) -> float:
    return float(u @ v / (u.norm() * v.norm()).clamp_min(1e-30))


def _phases(recipe: Recipe) -> list[Recipe]:
    return [recipe, *(_phases(recipe.then.recipe) if recipe.then else [])]
