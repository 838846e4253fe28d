"""The run log: an observer that writes what the hypotheses about large batches are judged by.

Rows of `log.jsonl`: `kind: "update"` at every k-th update, with the loss, the rate, the norms of gradient and step, the
distance ‖x − x₀‖ and the path length; `kind: "epoch"` with train and held-out figures. Between two looks the path
is extrapolated with the last step's length: measuring each step would cost as much as several optimiser steps.
"""

from typing import Any, final

from largebatch.core import EpochView, Request, View
from largebatch.results import RunFolder

__all__ = ["RunLog"]


@final
class RunLog:
    """Writes the log of a run.

    Args:
        folder: None keeps nothing, as on ranks other than the first.
        every: updates from one row to the next.
    """

    name = "log"

    def __init__(self, folder: RunFolder | None, every: int):
        self._folder = folder
        self._every = every
        self._path_length = 0.0
        self._last_update = 0

    def wants(self, update: int) -> Request | None:
        """Norms, at every k-th update and at the first."""
        return Request(norms=True) if (update + 1) % self._every == 0 or update == 0 else None

    def see(self, view: View) -> None:
        """Write one row."""
        assert view.step_norm is not None
        assert view.distance is not None
        assert view.gradient_squared_norm is not None
        self._path_length += float(view.step_norm) * (view.update + 1 - self._last_update)
        self._last_update = view.update + 1
        row = {
            "kind": "update",
            "phase": view.phase,
            "update": view.update,
            "epoch": view.epoch,
            "samples": view.samples,
            "batch_size": view.batch_size,
            "lr": view.lr,
            "train_loss": float(view.loss),
            "gradient_norm": float(view.gradient_squared_norm) ** 0.5,
            "step_norm": float(view.step_norm),
            "distance": float(view.distance),
            "path_length": self._path_length,
        }
        self._append(row)

    def see_epoch(self, view: EpochView) -> None:
        """Write one row."""
        row = {"kind": "epoch", "phase": view.phase, "epoch": view.epoch, "updates": view.updates}
        self._append(row | {"samples": view.samples, "seconds": view.seconds, **view.metrics})

    def state_dict(self) -> dict[str, Any]:
        """The path so far."""
        return {"path_length": self._path_length, "last_update": self._last_update}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the path."""
        self._path_length = state["path_length"]
        self._last_update = state["last_update"]

    def _append(self, row: dict[str, Any]) -> None:
        if self._folder is not None:
            self._folder.append([row])
