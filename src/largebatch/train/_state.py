"""Everything a run is in the middle of: one dataclass that is the checkpoint."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from largebatch.train._divergence import LossHistory
from largebatch.train._gradient import BatchSums

__all__ = ["State"]


@dataclass
class State:
    """Position and running figures of a run. Samples are the only clock; all else follows from the recipe."""

    phase: int = 0
    phase_update: int = 0  # updates done in this phase
    phase_samples: int = 0
    batch_size: int | None = None  # where it follows the noise: the present one
    update: int = 0  # updates done in all phases
    samples: int = 0
    seconds: float = 0.0
    history: LossHistory = field(default_factory=LossHistory)
    losses: list[Tensor] = field(default_factory=list)  # of this epoch's updates, 0-D each, on the device
    epoch_sums: Tensor | None = None  # count, loss, then metrics: over this epoch
    epoch_samples: int = 0
    best_samples: int = 0
    best_score: float | None = None

    def add(self, sums: BatchSums, batch_size: int) -> Tensor:
        """Count one update in; returns its mean loss, 0-D."""
        row = torch.cat([sums.count[None], sums.loss_sum[None], sums.metric_sums]).double()
        self.epoch_sums = row if self.epoch_sums is None else self.epoch_sums + row
        loss = sums.loss_sum / sums.count
        self.losses.append(loss)
        self.epoch_samples += batch_size
        self.phase_update += 1
        self.phase_samples += batch_size
        self.update += 1
        self.samples += batch_size
        return loss

    def recent_losses(self) -> list[float]:
        """This epoch's losses, with one transfer from the device."""
        return torch.stack(self.losses).double().tolist() if self.losses else []

    def epoch_means(self, metrics: list[str]) -> dict[str, float]:
        """`train_loss` and `train_<metric>` over this epoch's samples, as they were while training."""
        assert self.epoch_sums is not None
        count, loss, *values = self.epoch_sums.tolist()
        means = {f"train_{name}": value / self.epoch_samples for name, value in zip(metrics, values, strict=True)}
        return {"train_loss": loss / count} | means

    def start_epoch(self) -> None:
        """Forget the figures of the epoch that ended."""
        self.losses, self.epoch_sums, self.epoch_samples = [], None, 0

    def start_phase(self) -> None:
        """Enter the next phase: its durations count from here."""
        self.start_epoch()
        self.phase, self.phase_update, self.phase_samples = self.phase + 1, 0, 0
        self.batch_size = None

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers only."""
        row = {name: value for name, value in vars(self).items() if name not in ("history", "losses")}
        return row | {"history": asdict(self.history), "losses": self.recent_losses()}

    @classmethod
    def from_state_dict(cls, row: dict[str, Any], device: torch.device, dtype: torch.dtype) -> "State":
        """The state that `state_dict` described."""
        losses = [torch.tensor(loss, device=device, dtype=dtype) for loss in row["losses"]]
        sums = None if row["epoch_sums"] is None else row["epoch_sums"].to(device)
        return cls(**(row | {"history": LossHistory(**row["history"]), "losses": losses, "epoch_sums": sums}))
