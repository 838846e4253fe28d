"""The gradient noise scale, from partial gradients that training computes anyway.

McCandlish et al. 2018 (arXiv 1812.06162), appendix A.1: with batches B_big and B_small of the same gradient,

    |G|²   ← (B_big·|G_big|² − B_small·|G_small|²) / (B_big − B_small)
    tr(Σ)  ← (|G_small|² − |G_big|²) / (1/B_small − 1/B_big),      B_simple = tr(Σ)/|G|².

Here B_small is every part of a global batch, of unequal size b_i, and B_big the whole. As E|G_b|² = |G|² + tr(Σ)/b, the
mean over the parts pairs with the mean of 1/b_i: exact for unequal parts. Both estimates are unbiased and may be
negative; they are averaged before the ratio is taken.

Samples drawn without replacement from a training set of D have E|G_b|² = |G|² + tr(Σ)·(1/b − 1/D), Σ with D − 1 below the
line; G is then the gradient of that set, and not of the population it was drawn from.
"""

from typing import Any, final

import torch
from torch import Tensor, nn

from largebatch.core import EpochView, Loss, Partials, Request, View, World
from largebatch.noise._blocks import BlockMeans
from largebatch.noise._cadence import Cadence
from largebatch.noise._estimate import NoiseEstimate, estimate_noise
from largebatch.noise._examples import example_partials
from largebatch.noise._watch import Watch

__all__ = ["NoiseScale", "noise_and_signal"]


def noise_and_signal(partials: Partials, *, train_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Unbiased `(tr Σ, |G|²)` of one update, 0-D float64 each.

    Args:
        partials: at least two parts.
        train_size: D, where samples are drawn without replacement and G is to be the gradient of the training set; None:
            of the population.

    Raises:
        ValueError: fewer than two parts: equal small and large batches say nothing about the noise.
    """
    if len(partials.counts) < 2:
        batch = int(partials.counts.sum())
        change = (
            f"use a ghost_batch_size of at most {batch // 2}, or two accumulation steps"
            if batch > 1
            else "use a batch of 2 or more"
        )
        raise ValueError(
            f"noise scale: expected at least 2 partial gradients of a batch, got {len(partials.counts)} of {batch} "
            f"samples: {change}"
        )
    big = partials.whole_squared_norm.double()
    small = partials.squared_norms.mean()
    inverse_small = (1.0 / partials.counts).mean()
    inverse_big = 1.0 / partials.counts.sum()
    trace = (small - big) / (inverse_small - inverse_big)
    return trace, big - trace * (inverse_big - (0.0 if train_size is None else 1.0 / train_size))


@final
class NoiseScale:
    """tr(Σ), |G|² and B_simple = tr(Σ)/|G|² over a run: an observer for `fit`, and one line in any other loop.

    In `fit`: `observers=[NoiseScale()]`. In a loop with gradient accumulation or DDP: `noise.watch(model, optimizer)` before
    it. In a loop with neither: `noise.see_examples(model, loss, inputs, targets)` before each step.

    Args:
        every: updates between looks. None chooses it from what looks are seen to cost, so that they take `overhead` of the
            time; then the clock decides which updates are split, and two runs agree to rounding only. On several ranks,
            whose clocks differ, None is 100.
        parts: partial gradients a look of `fit` splits the batch into.
        preconditioned: measure as Adam sees gradients.
        overhead: share of the time for looks.
        train_size: as for `noise_and_signal`.
    """

    def __init__(
        self,
        every: int | None = None,
        parts: int = 4,
        *,
        preconditioned: bool = False,
        overhead: float = 0.005,
        train_size: int | None = None,
    ):
        if parts < 2:
            raise ValueError(f"parts: expected at least 2 partial gradients of a batch, got {parts}: two is the least")
        self.name = "preconditioned_noise_scale" if preconditioned else "noise_scale"
        self._cadence = Cadence(every, overhead)
        self._parts = parts
        self._preconditioned = preconditioned
        self._train_size = train_size
        self._blocks = BlockMeans(3)  # tr Σ, |G|², samples seen
        self._updates = 0
        self._samples = 0.0

    @property
    def looks(self) -> int:
        """Updates looked at."""
        return self._blocks.rows

    @property
    def every(self) -> int | None:
        """Updates between looks; None while it is still being found out."""
        return self._cadence.every

    def estimate(self, last: float = 1.0) -> NoiseEstimate:
        """The noise over the run, or over its last part.

        Args:
            last: share of the looks, counted from the end; the noise scale grows while a network learns.
        """
        means = self._blocks.means
        rows = means[len(means) - round(last * len(means)) :]
        looks = round(self.looks * len(rows) / len(means)) if len(means) else 0
        traces, signals, samples = rows.T.tolist() if len(rows) else ([], [], [0.0])
        found = estimate_noise(traces, signals, looks=looks)
        return found.at(samples[0], samples[-1], preconditioned=self._preconditioned)

    def path(self) -> list[tuple[float, float, float]]:
        """`(samples, tr Σ, |G|²)` of up to 32 stretches of the run, means over each."""
        return [(samples, trace, signal) for trace, signal, samples in self._blocks.means.tolist()]

    def add(self, partials: Partials, samples: float) -> None:
        """Count one look in.

        Args:
            samples: seen so far.
        """
        trace, signal = noise_and_signal(partials, train_size=self._train_size)
        self._blocks.add(torch.stack([trace, signal, torch.full_like(trace, samples)]))

    def watch(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, world: World | None = None) -> Watch:
        """Look on at any loop in which an update has several backward passes, or several ranks, or both.

        The parts are the backward passes of every rank; how many samples each has is the length of what `model` is called
        with. The gradients must be those of the *mean* over the global batch, as `largebatch.core` and DDP have it, and
        whoever clips or unscales them does it after all backward passes.

        Args:
            model: as it is called in the loop: the DDP wrapper where there is one.
            optimizer: whose steps are the updates.
            world: `World(rank, size)` of the process group; None is one rank.

        Returns:
            A handle: `close()` takes the hooks away, as leaving it as a context does.

        Raises:
            ValueError: at a step with a single part, with the smallest change that works.
        """
        return Watch(self, model, optimizer, World() if world is None else world, self._preconditioned)

    def see_examples(self, model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor) -> None:
        """Look, when it is time, at per-example gradients of a batch: for loops with one backward pass an update.

        Call it once an update, before the step. Costs a forward and about a backward pass, every k-th time.

        Args:
            model: without batch norm in training mode, which gives no example a gradient of its own.
            loss: one value per example.
            inputs, targets: the batch.

        Raises:
            ValueError: layers that couple examples, or a batch of one sample.
        """
        self._samples += len(inputs)
        if self.is_due():
            self.add(example_partials(model, loss, inputs, targets), self._samples)

    def is_due(self, *, several_ranks: bool = False) -> bool:
        """Whether to look at this update; call it once an update."""
        due = self._cadence.is_due(self._updates, several_ranks=several_ranks)
        self._updates += 1
        return due

    def wants(self, update: int) -> Request | None:
        """Partial gradients at every k-th update."""
        if not self._cadence.is_due(update):
            return None
        return Request(parts=self._parts, preconditioned=self._preconditioned)

    def see(self, view: View) -> None:
        """Add one update's estimates; a last batch of a single ghost has nothing to compare and is passed over."""
        partials = view.partials
        if partials is None or len(partials.counts) < 2 or partials.preconditioned != self._preconditioned:
            return
        self.add(partials, view.samples)

    def see_epoch(self, view: EpochView) -> None:
        """Nothing but that evaluation took time, which is no update's."""
        self._cadence.pause()

    def state_dict(self) -> dict[str, Any]:
        """Sums, counts and the cadence."""
        own = {"updates": self._updates, "samples": self._samples}
        return {"blocks": self._blocks.state_dict(), "cadence": self._cadence.state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the sums."""
        self._blocks.load_state_dict(state["blocks"])
        self._cadence.load_state_dict(state["cadence"])
        self._updates, self._samples = state["updates"], state["samples"]
