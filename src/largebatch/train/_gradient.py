"""The gradient of one global batch: Σ over all its samples ÷ their count, whatever the ranks and micro-batches.

Goyal et al. 2017 (arXiv 1706.02677), section 2.5, remark 3: per-worker losses are normalised by the size kn of the global
batch, and gradients are summed. A loss with weights (tokens) knows its count only after the forward pass, so its
gradients are divided at the end.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from largebatch.core import (
    GradientSum,
    Partials,
    Task,
    World,
    cut,
    derive,
    discard_statistics,
    frozen_statistics,
    has_batch_norm,
    is_out_of_memory,
    pending_statistics,
    seed_default,
    swap_dropout,
    total,
    weigh,
)
from largebatch.noise import weighted_squared_norm
from largebatch.recipe import Recipe
from largebatch.train._execution import autocast_of

__all__ = ["BatchSums", "GlobalGradient", "Share"]


@dataclass(frozen=True)
class Share:
    """One rank's part of a global batch, in micro-batches of whole ghosts."""

    key: tuple[int, ...]  # (phase, update): keys the random numbers of dropout
    batch_size: int  # samples of the global batch
    start: int  # position of this rank's first sample in it
    pieces: Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class BatchSums:
    """Sums over a global batch, on the device."""

    count: Tensor  # 0-D: samples, or the sum of weights
    loss_sum: Tensor  # 0-D
    metric_sums: Tensor  # (metrics,), each divided by samples for a mean
    stop: Tensor  # 0-D: how many ranks wish to stop
    statistics: Tensor | None  # batch-norm statistics summed over several ranks
    partials: Partials | None


@final
class GlobalGradient:
    """Puts the mean gradient of a global batch into `p.grad`.

    Args:
        model: with its batch norms swapped for ghosts that wait for their commit; its dropout is swapped here.
        micro_batch_size: of the run's execution; lowered here when memory runs out.
        forward: the compiled model, where there is one.
        stop: whether this rank wishes to stop; the ranks' wishes travel with the gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        recipe: Recipe,
        world: World,
        device: torch.device,
        *,
        seed: int,
        micro_batch_size: int | None,
        forward: Callable[..., Any] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ):
        self.model = model
        self.micro_batch_size = micro_batch_size
        self._forward = model if forward is None else forward
        self._task, self._recipe, self._world, self._device, self._seed = task, recipe, world, device, seed
        self._autocast = autocast_of(recipe, device)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._stop = stop
        self._dropouts = swap_dropout(model)
        self._sum = GradientSum(self._parameters, world)
        self._loss_options = {"label_smoothing": recipe.label_smoothing} if recipe.label_smoothing else {}
        self._is_whole = recipe.ghost_batch_size is None and has_batch_norm(model)
        if self._is_whole and micro_batch_size is not None:
            raise ValueError(
                f"micro_batch_size: got {micro_batch_size}, but with ghost_batch_size=None batch norm takes its statistics "
                "over the whole global batch, in one pass: set ghost_batch_size=32, or leave micro_batch_size out"
            )

    def __call__(
        self, share: Share, *, parts: int = 1, roots: Sequence[Tensor] | None = None, is_first: bool = True
    ) -> BatchSums:
        """One or more backward passes and one reduction.

        Args:
            parts: show the norms of at least so many partial gradients, as far as there are ghosts.
            roots: of a diagonal preconditioner, shaped as the parameters: these norms are taken in its metric.
            is_first: False for a second pass on the same batch at displaced weights (SAM): batch-norm statistics stay.
        """
        while True:
            for p in self._parameters:
                p.grad = None
            try:
                with nullcontext() if is_first else frozen_statistics(self.model):
                    return self._accumulate(share, parts, roots, is_first)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._make_smaller(share, error)
                if is_first:  # a later pass counted none, and those of the first still wait for their commit
                    discard_statistics(self.model)

    def close(self) -> None:
        """Remove the hooks from the parameters; dropout draws from torch's generator again."""
        self._sum.close()
        for layer in self._dropouts:
            layer.release()

    def _accumulate(self, share: Share, parts: int, roots: Sequence[Tensor] | None, is_first: bool) -> BatchSums:
        pieces = self._split(share, -(-parts // self._world.size))
        sums = torch.zeros(3 + len(self._task.metrics), dtype=torch.float32, device=self._device)
        sums = sums.to(self._parameters[0].dtype)
        splitter = _Splitter(self._parameters, roots) if parts > 1 else None
        weighted = False
        position = share.start
        for number, (inputs, targets) in enumerate(pieces):
            if number == len(pieces) - 1 and splitter is None:
                self._sum.arm()
            # The same random numbers at the same place of the same update, however a run got there.
            for layer in self._dropouts:
                layer.place(self._seed, share.key, position)
            seed_default(self._device, derive(self._seed, "forward", *share.key, position))
            values, weights, metrics = self._pass(inputs, targets)
            loss_sum, count = total(values, weights)
            weighted = weights is not None
            loss_sum.backward(gradient=None if weighted else torch.full_like(loss_sum, 1.0 / share.batch_size))
            sums[1:] += torch.stack(
                [torch.as_tensor(count, device=sums.device, dtype=sums.dtype), loss_sum.detach(), *metrics]
            )
            if splitter is not None:
                splitter.take(count)
            position += len(inputs)
        if splitter is not None:
            splitter.put_back()
        return self._finish(share, sums, weighted, splitter, is_first)

    def _pass(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        with self._autocast():
            outputs = self._forward(inputs)
            values, weights = weigh(self._task.loss(outputs, targets, **self._loss_options), len(inputs))
        values = values.to(torch.promote_types(values.dtype, torch.float32))  # a sum of thousands needs the digits
        with torch.no_grad():
            metrics = [metric(outputs, targets).sum() for metric in self._task.metrics.values()]
        return values, weights, metrics

    def _finish(
        self, share: Share, sums: Tensor, weighted: bool, splitter: "_Splitter | None", is_first: bool
    ) -> BatchSums:
        sums[0] = float(self._stop())
        several = self._world.size > 1
        extras = torch.cat([sums, pending_statistics(self.model).to(sums)]) if several and is_first else sums
        extras = self._sum.finish(extras)
        count = extras[1]
        if weighted:  # a batch whose every target is masked has gradient 0, not 0 ÷ 0
            grads = [p.grad for p in self._parameters if p.grad is not None]
            count = torch.where(count == 0, torch.ones_like(count), count)
            torch._foreach_div_(grads, count)
        return BatchSums(
            count=count,
            loss_sum=extras[2],
            metric_sums=extras[3 : len(sums)],
            stop=extras[0],
            statistics=extras[len(sums) :] if several and is_first else None,
            partials=None if splitter is None else splitter.gather(self._world, share.batch_size, weighted),
        )

    def _split(self, share: Share, parts: int) -> list[tuple[Tensor, Tensor]]:
        if self._is_whole:
            return list(share.pieces)
        each = -(-parts // len(share.pieces))
        pieces: list[tuple[Tensor, Tensor]] = []
        for inputs, targets in share.pieces:
            bounds = cut(len(inputs), self._recipe.ghost_batch_size, self.micro_batch_size, each)
            pieces += [(inputs[start:stop], targets[start:stop]) for start, stop in bounds]
        return pieces

    def _make_smaller(self, share: Share, error: Exception) -> None:
        """Halve the micro-batch; the semantics stay, as micro-batches are whole ghosts."""
        largest = max(len(inputs) for inputs, _ in self._split(share, 1))
        least = self._recipe.ghost_batch_size or 1
        if self._sum.has_started or self._is_whole or largest <= least:
            raise RuntimeError(
                f"out of memory with a micro-batch of {largest} samples, and it cannot be halved here: use a smaller "
                "micro_batch_size or ghost_batch_size, or more workers"
            ) from error
        self._sum.disarm()
        self.micro_batch_size = max(least, largest // 2)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


@final
class _Splitter:
    """Keeps the partial gradients of an update apart: takes each out of `p.grad`, notes its norm, adds it up.

    Args:
        roots: of a diagonal preconditioner, in whose metric norms are taken.
    """

    def __init__(self, parameters: Sequence[Tensor], roots: Sequence[Tensor] | None):
        self._parameters = parameters
        self._roots = roots
        self._sums: list[Tensor | None] = [None] * len(parameters)
        self._norms: list[Tensor] = []
        self._counts: list[Tensor] = []

    def take(self, count: Tensor | int) -> None:
        grads = [p.grad for p in self._parameters if p.grad is not None]
        self._norms.append(self._squared_norm())
        self._counts.append(torch.as_tensor(count, device=grads[0].device).double())
        for i, p in enumerate(self._parameters):
            if p.grad is not None:
                held = self._sums[i]
                self._sums[i] = p.grad if held is None else held.add_(p.grad)
                p.grad = None

    def put_back(self) -> None:
        for p, held in zip(self._parameters, self._sums, strict=True):
            p.grad = held

    def gather(self, world: World, batch_size: int, weighted: bool) -> Partials:
        """All ranks' parts. Sums were scaled by 1/batch_size unless weighted; a part's mean divides by its own count."""
        counts = world.gather(torch.stack(self._counts))
        norms = world.gather(torch.stack(self._norms))
        scale = 1.0 if weighted else float(batch_size)
        present = counts > 0
        return Partials(
            counts[present],
            norms[present] * (scale / counts[present]) ** 2,
            self._squared_norm(),
            self._roots is not None,
        )

    def _squared_norm(self) -> Tensor:
        """Of the present gradients, 0-D."""
        present = [i for i, p in enumerate(self._parameters) if p.grad is not None]
        grads = [self._parameters[i].grad for i in present]
        roots = None if self._roots is None else [self._roots[i] for i in present]
        return weighted_squared_norm(grads, roots)  # pyright: ignore[reportArgumentType]
