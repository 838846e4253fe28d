"""Run: what training returns and `result.json` holds; failure is a value that carries advice."""

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """One run of `fit`.

    Args:
        status: "finished", "diverged" (`reason` says at which step, and what to try) or "stopped" (by a signal, after a
            checkpoint; the same call resumes it).
        metrics: exact figures at the end: train_loss, test_loss, and each metric of the task with these prefixes.
        folder: the run folder, None where nothing was written.
        notes: what the user should know, such as a damaged checkpoint that was passed over.
        model: the trained model, on its device; not part of the JSON.
    """

    task: str
    recipe: dict[str, Any]
    seed: int
    status: Literal["finished", "diverged", "stopped"]
    reason: str
    updates: int
    samples: int
    seconds: float
    samples_per_second: float
    metrics: dict[str, float]
    folder: str | None
    notes: tuple[str, ...] = ()
    model: nn.Module | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The fields of `train --json`."""
        row = {name: value for name, value in vars(self).items() if name != "model"}
        return row | {"notes": list(self.notes)}

    @classmethod
    def from_json(cls, row: dict[str, Any], model: nn.Module | None = None) -> "Run":
        """The run that `to_json` described."""
        return cls(**(row | {"notes": tuple(row["notes"]), "model": model}))
