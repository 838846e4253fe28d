"""Where a run is kept: its folder, its checkpoints, and how a later call finds its place again.

Rank 0 writes. On a resume rank 0 reads and sends the bytes to the others, so machines need not share a disk.
"""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

import largebatch
from largebatch.core import (
    Checkpoint,
    Observer,
    Task,
    World,
    discard_checkpoints,
    latest_checkpoint,
    prune_checkpoints,
    squared_norm,
    write_checkpoint,
)
from largebatch.recipe import Recipe
from largebatch.results import RunFolder
from largebatch.train._run import Run
from largebatch.train._state import State

__all__ = ["RunStore"]

KEEP_LAST = 2  # the newest may be damaged


@final
class RunStore:
    """The files of one run; all ranks call it alike, rank 0 touches the disk.

    Args:
        path: the run folder; None keeps nothing.
        digest: identity of the run.
    """

    def __init__(self, path: Path | None, digest: str, world: World, device: torch.device):
        self.path = path
        self._digest = digest
        self._world = world
        self._device = device
        self.folder = RunFolder(path) if path is not None and world.is_first else None
        self.notes: list[str] = []
        self.saved_samples: int | None = None
        """Of the newest good checkpoint."""

    @property
    def exists(self) -> bool:
        """Whether anything is kept, on any rank."""
        return self.path is not None

    def finished_run(self, model: nn.Module) -> Run | None:
        """The result of this very run, with its final weights, if it ended before.

        Raises:
            ValueError: the folder holds another run.
        """
        if not self.exists:
            return None
        found = b""
        if self.folder is not None:
            self._check_identity(self.folder)
            is_ended = self.folder.read("result.json") is not None  # names the file where it is damaged
            found = (self.folder.path / "result.json").read_bytes() if is_ended else b""
        found = self._world.broadcast_bytes(found, self._device)
        if not found:
            return None
        checkpoint = self._newest()
        if checkpoint is not None:
            model.load_state_dict(checkpoint.model_state())
        return Run.from_json(RunFolder.decode(found), model)

    def open(self, recipe: Recipe, task: Task, seed: int) -> None:
        """Write what identifies the run, and where its task is found again."""
        if self.folder is None:
            return
        self._check_identity(self.folder)
        who = {"task": task.name, "origin": task.origin, "seed": seed, "digest": self._digest}
        self.folder.write("recipe.json", who | {"recipe": recipe.to_json()})
        self.folder.write("environment.json", _environment(self._world))

    def resume(self) -> Checkpoint | None:
        """The newest good checkpoint, on every rank; damaged ones become notes and go. Later log rows are cut off."""
        checkpoint = self._newest()
        self.saved_samples = None if checkpoint is None else checkpoint.samples
        if self.folder is not None:
            used = -1 if checkpoint is None else checkpoint.samples
            self.folder.cut_back(used)
            discard_checkpoints(self.folder.checkpoints, after=used)
        return checkpoint

    def save(self, state: State, model: nn.Module, optimizer: Any, observers: Sequence[Observer]) -> None:
        """Write a checkpoint and delete those no longer needed."""
        self.saved_samples = state.samples
        if self.folder is None:
            return
        training = {
            "state": state.state_dict(),
            "optimizer": optimizer.state_dict(),
            "observers": {observer.name: observer.state_dict() for observer in observers},
        }
        checkpoints = self.folder.checkpoints
        write_checkpoint(checkpoints, state.samples, model.state_dict(), training)
        prune_checkpoints(checkpoints, KEEP_LAST, {state.best_samples})

    def finish(self, run: Run) -> None:
        """Write the result: from here the run is never repeated."""
        if self.folder is not None:
            self.folder.write("result.json", run.to_json())

    def _check_identity(self, folder: RunFolder) -> None:
        identified = folder.read("recipe.json")
        held = self._digest if identified is None else identified.get("digest")
        if held != self._digest:
            raise ValueError(
                f"{folder.path}: holds run {held}, but this task, recipe and seed make run {self._digest}: "
                "choose another --out, or delete the folder"
            )

    def _newest(self) -> Checkpoint | None:
        """Read on rank 0, sent to all."""
        if not self.exists:
            return None
        checkpoint = None
        if self.folder is not None:
            checkpoint, damaged = latest_checkpoint(self.folder.checkpoints)
            used = "started again" if checkpoint is None else f"continued from {checkpoint.samples} samples"
            self.notes += [f"{reason}; {used}" for reason in damaged]
        if self._world.size == 1:
            return checkpoint
        parts = (b"", b"", b"") if checkpoint is None else (
            str(checkpoint.samples).encode(), checkpoint.model_bytes, checkpoint.training_bytes
        )  # fmt: skip
        samples, model, training = (self._world.broadcast_bytes(part, self._device) for part in parts)
        return Checkpoint(int(samples), model, training) if samples else None


def _environment(world: World) -> dict[str, Any]:
    return {
        "largebatch": largebatch.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "workers": world.size,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def weights_are_finite(model: nn.Module) -> bool:
    """Whether every parameter is finite: a checkpoint of anything else would be of no use."""
    return bool(torch.isfinite(squared_norm([p.detach() for p in model.parameters()])))
