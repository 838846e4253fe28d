"""Observer: what the training loop shows an onlooker, and what an onlooker may ask for.

An observer says before each update what it wants to see; the loop does the extra work only then. Measuring needs nothing
else from the loop, so the run log, a noise scale and a tracker of the largest curvature are all just observers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from largebatch.core._risk import Risk

__all__ = ["EpochView", "Observer", "Partials", "Request", "View"]


@dataclass(frozen=True)
class Request:
    """What an observer wants to see of one update.

    Args:
        parts: split the global batch, on ghost boundaries, into at least so many parts and show the squared norm of
            the mean gradient of each.
        norms: show the gradient's norm, the length of the step and the distance from the start.
        risk: show the training risk at the weights after the update.
        preconditioned: norms of parts, and of their mean, as Adam sees gradients; nothing before its first
            step. One metric an update: where observers differ, this one is shown.
    """

    parts: int = 1
    norms: bool = False
    risk: bool = False
    preconditioned: bool = False


@dataclass(frozen=True)
class Partials:
    """Partial gradients of one global batch: `counts[i]` samples (or weights) with squared mean-gradient norm."""

    counts: Tensor  # (parts,) float64
    squared_norms: Tensor  # (parts,) float64
    whole_squared_norm: Tensor  # 0-D float64, of the mean gradient over all parts
    preconditioned: bool = False  # whether norms are taken as Adam sees gradients


@dataclass(frozen=True)
class View:
    """One update, seen just after the step. Tensors stay on the device: reading one synchronises with the host."""

    update: int
    phase: int
    epoch: float
    samples: int  # seen, this update included
    batch_size: int
    lr: float
    loss: Tensor  # 0-D, mean over the global batch, before the step
    gradient_squared_norm: Tensor | None = None  # 0-D, of the mean gradient, before clipping
    step_norm: Tensor | None = None  # 0-D, ‖x_{t+1} − x_t‖
    distance: Tensor | None = None  # 0-D, ‖x_{t+1} − x_0‖
    partials: Partials | None = None
    risk: Risk | None = None


@dataclass(frozen=True)
class EpochView:
    """One finished epoch: means over its samples while training, and exact figures on held-out data."""

    epoch: int
    phase: int
    updates: int
    samples: int
    seconds: float
    metrics: Mapping[str, float]  # train_loss, held_out_loss, and each metric of the task with these prefixes


class Observer(Protocol):
    """An onlooker of training. On several ranks each has its own, and all must answer `wants` alike.

    `state_dict` goes into the checkpoint: tensors, numbers, strings, lists and dictionaries of these.
    """

    name: str

    def wants(self, update: int) -> Request | None:
        """What to show of this update; None for nothing."""
        ...

    def see(self, view: View) -> None:
        """Look at an update that was asked for."""
        ...

    def see_epoch(self, view: EpochView) -> None:
        """Look at a finished epoch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to continue as if nothing had happened."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        ...
