"""An observer that writes what the run log holds to TensorBoard, under the usual slash names."""

from pathlib import Path
from typing import Any, final

from largebatch.core import EpochView, Request, View

__all__ = ["TensorBoard"]


@final
class TensorBoard:
    """Scalars against samples seen: the axis on which runs at different batches compare.

    Args:
        folder: log directory.
        every: updates between points.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed; the message says how to install it.
    """

    name = "tensorboard"

    def __init__(self, folder: str | Path, every: int = 10):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("TensorBoard is missing: pip install 'largebatch[tensorboard]'") from error
        self._folder = str(folder)
        self._every = every
        self._make = SummaryWriter
        self._writer: Any = None
        self._samples = 0

    def wants(self, update: int) -> Request | None:
        """Norms, at every k-th update."""
        return Request(norms=True) if update % self._every == 0 else None

    def see(self, view: View) -> None:
        """One point of each curve."""
        values = {"train/loss": view.loss, "optim/lr": view.lr}
        if view.gradient_squared_norm is not None:
            values["optim/gradient_norm"] = view.gradient_squared_norm.sqrt()
        if view.distance is not None:
            values["optim/distance_from_start"] = view.distance
        self._write({name: float(value) for name, value in values.items()}, view.samples)

    def see_epoch(self, view: EpochView) -> None:
        """The epoch's figures: `train_loss` becomes `epoch/train_loss`."""
        self._write({f"epoch/{name}": value for name, value in view.metrics.items()}, view.samples)

    def state_dict(self) -> dict[str, Any]:
        """Where the curves end."""
        return {"samples": self._samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the curves there: later points of an interrupted run are purged."""
        self._samples = state["samples"]

    def _write(self, values: dict[str, float], samples: int) -> None:
        if self._writer is None:
            self._writer = self._make(self._folder, purge_step=self._samples + 1)
        for name, value in values.items():
            self._writer.add_scalar(name, value, samples)
        self._writer.flush()
        self._samples = samples
