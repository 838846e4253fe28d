"""What a finished run says for a plan: seconds of an update, samples in it, samples in all. Files only, no torch.

The size of the gradients is read off the header of the checkpoint's safetensors file: a length of 8 bytes, then JSON with
the shape and type of every tensor (format of huggingface/safetensors).
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from largebatch.plan._measured import seconds_per_update
from largebatch.results import Estimate, Result, RunFolder

__all__ = ["RunCost", "read_run_cost"]

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norm: no gradient
_GRADIENT_BYTES_EACH = 4


@final
@dataclass(frozen=True)
class RunCost(Result):
    """What a run cost.

    Args:
        task: its name.
        global_batch_size, workers: B and W.
        samples: trained on in all.
        step_seconds: of one update on these workers.
        gradient_bytes: of all parameters in float32; NaN where no checkpoint was kept.
    """

    task: str
    global_batch_size: int
    workers: int
    samples: int
    step_seconds: Estimate
    gradient_bytes: float


def read_run_cost(folder: str | Path) -> RunCost:
    """Read a run folder of `largebatch train`.

    Raises:
        ValueError: no run, one that has not finished, or a log without timing.
    """
    run = RunFolder(Path(folder))
    who, result, machine = (run.read(name) for name in ("recipe.json", "result.json", "environment.json"))
    if who is None:
        raise ValueError(
            f"{folder}: expected a run folder of `largebatch train`, got no recipe.json there; give one, or the numbers "
            "(--samples, --seconds-per-sample)"
        )
    if result is None or result["status"] != "finished":
        state = "not ended" if result is None else result["status"]
        raise ValueError(f"{folder}: expected a finished run, got one that has {state}; finish it, or give the numbers")
    try:
        step = seconds_per_update([row for row in run.log() if row.get("kind") == "epoch"])
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return RunCost(
        who["task"],
        int(who["recipe"]["global_batch_size"]),
        int((machine or {}).get("workers", 1)),
        int(result["samples"]),
        step,
        _gradient_bytes(run.checkpoints),
    )


def _gradient_bytes(checkpoints: Path) -> float:
    files = sorted(checkpoints.glob("*/model.safetensors"))
    if not files:
        return math.nan
    with files[-1].open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    shapes = [
        entry["shape"]
        for name, entry in header.items()
        if name != "__metadata__" and name.rpartition(".")[2] not in _STATISTICS
    ]
    return float(_GRADIENT_BYTES_EACH * sum(math.prod(shape) for shape in shapes))
