"""What was seen of a run, as plain values. The culprits judge this and nothing else.

Update t applied the gradient a_r on rank r. With G_i the gradient of the *summed* loss of micro-batch i, and n_i its
count of samples (or of unmasked tokens), the gradient of the global batch is

    g = Σ_i G_i / Σ_i n_i          over the micro-batches of all ranks

(Goyal et al. 2017, arXiv 1706.02677, section 2.5, remark 3). The G_i are replayed, so every known mistake of aggregation
is a linear combination of them: a = Σ_i c_i·G_i + λ·w + ... . What is kept of the vectors are their coordinates in an
orthonormal basis of their span, which keeps every distance between such combinations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["Clip", "Epoch", "Evidence", "FirstStep", "MicroBatch", "Parameter", "Step", "Update", "Vector", "reduced"]

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward pass on one rank.

    Args:
        count: samples, or unmasked tokens: the weight of this micro-batch in the global mean.
        samples: samples in the forward pass, which is what batch norm sees.
        indices: positions in the data set; () where they could not be told.
        content: digest of the inputs; "" where none was taken.
        noise: digests of the states of the generators that augmentation drew from; () where it drew nothing.
    """

    rank: int
    count: float
    samples: int
    indices: tuple[int, ...] = ()
    content: str = ""
    noise: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clip:
    """One call of torch.nn.utils.clip_grad_norm_ or its relatives.

    Args:
        position: micro-batches of this update whose backward pass was done.
        norm: of the gradients it was given; the largest entry where entries are clipped.
        limit: the norm, or entry, they were clipped to.
        is_scaled: they still carried the loss scale of a GradScaler.
    """

    position: int
    norm: float
    limit: float
    is_scaled: bool = False

    @property
    def acted(self) -> bool:
        """Whether it changed anything."""
        return self.norm > self.limit


@dataclass(frozen=True)
class Step:
    """What one rank's optimiser was at in one update.

    Args:
        rates: the learning rate of each parameter group.
        momenta: the momentum of each group of a torch.optim.SGD.
        buffer_drift: ‖momentum buffers before this step‖ / ‖after the last one‖; 1 where nobody touched them.
        scheduler_calls: for the scheduler that stepped most, how many micro-batches of this update were done at each call.
        clips: in the order of the calls.
        loss_scale: of a GradScaler; 1 without.
        without_gradient: parameters whose gradient was None.
    """

    rank: int
    rates: tuple[float, ...] = ()
    momenta: tuple[float, ...] = ()
    buffer_drift: float = 1.0
    scheduler_calls: tuple[int, ...] = ()
    clips: tuple[Clip, ...] = ()
    loss_scale: float = 1.0
    without_gradient: tuple[str, ...] = ()


@dataclass(frozen=True)
class Update:
    """One update over all ranks. The vectors are rows of coordinates in one basis.

    Args:
        applied: (ranks, d), what each rank's optimiser was given, before clipping where clipping was the last thing done.
        sums: (micro-batches, d), the replayed G_i; no rows where nothing was replayed.
        weights: (2, d), the parameters before the step: matrices, and vectors such as biases.
        previous: (d,), the gradient of the update before.
        is_moved: the weights changed between a forward pass and the step, as SAM has it: no reference then.
        is_joint: a backward pass went through several forward passes: their losses may be joined by another than a mean.
        is_averaged: all ranks' optimisers are known to have had the same gradient in the end, after clipping too.
        spread: largest distance between two ranks' parameters before the step, relative to their norm.
        tolerance: relative error that rounding explains.
    """

    number: int
    epoch: int
    micro_batches: tuple[MicroBatch, ...]
    steps: tuple[Step, ...]
    applied: Vector
    sums: Vector
    weights: Vector
    previous: Vector
    is_moved: bool = False
    is_joint: bool = False
    is_averaged: bool = True
    spread: float = 0.0
    tolerance: float = 5e-4

    @property
    def is_judged(self) -> bool:
        """Whether there is a reference to hold the gradient against."""
        return len(self.sums) > 0 and not self.is_moved

    @property
    def counts(self) -> Vector:
        """(micro-batches,)."""
        return np.array([part.count for part in self.micro_batches], dtype=np.float64)

    @property
    def ranks(self) -> NDArray[np.int64]:
        """(micro-batches,): whose each is."""
        return np.array([part.rank for part in self.micro_batches], dtype=np.int64)

    @property
    def accumulation(self) -> int:
        """Micro-batches of the busiest rank."""
        return int(np.bincount(self.ranks).max()) if self.micro_batches else 0

    @property
    def samples(self) -> int:
        """The global batch size."""
        return sum(part.samples for part in self.micro_batches)

    @property
    def reference(self) -> Vector:
        """(d,): g, the gradient of the global batch."""
        return self.sums.sum(0) / self.counts.sum()


@dataclass(frozen=True)
class Epoch:
    """The samples one rank read in one epoch, in order; `is_complete`: to the end of its loader."""

    rank: int
    number: int
    indices: tuple[int, ...]
    is_complete: bool


@dataclass(frozen=True)
class Parameter:
    """One parameter as the optimiser sees it; `decay` is NaN where no optimiser has it."""

    name: str
    dimensions: int
    decay: float


@dataclass(frozen=True)
class FirstStep:
    """The first step of one tensor: ‖w‖, ‖g‖, ‖g + decay·w‖ and ‖Δw‖."""

    name: str
    elements: int
    weight_norm: float
    gradient_norm: float
    decayed_norm: float
    step_norm: float
    rate: float
    decay: float


@dataclass(frozen=True)
class Evidence:
    """One run of the script.

    Args:
        data_size: samples in the training data; 0 where it could not be told.
        with_replacement: the sampler repeats or leaves out samples on purpose.
        population: positions that the samplers draw from; () for all of the data.
        has_own_sampler: it is none that is known to go through all of them once.
        has_batch_norm: statistics over the batch.
        unit: what `count` counts: "samples" or "tokens".
        is_distributed: the script joined a process group.
        replicas: processes that were started.
    """

    world_size: int
    updates: tuple[Update, ...] = ()
    epochs: tuple[Epoch, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    first_steps: tuple[FirstStep, ...] = ()
    optimizer: str = ""
    data_size: int = 0
    with_replacement: bool = False
    population: tuple[int, ...] = ()
    has_own_sampler: bool = False
    has_batch_norm: bool = False
    unit: str = "samples"
    is_distributed: bool = True
    replicas: int = 0

    @property
    def accumulation(self) -> int:
        """Micro-batches of a full window."""
        return max((update.accumulation for update in self.updates), default=0)


def reduced(vectors: Sequence[Vector]) -> Vector:
    """Coordinates (k, d), d ≤ k, of k vectors of any length in an orthonormal basis of their span.

    Args:
        vectors: k vectors (P,).
    """
    columns = np.stack([np.asarray(vector, dtype=np.float64) for vector in vectors], axis=1)  # (P, k)
    return cast(Vector, np.linalg.qr(columns, mode="r")).T.copy()
