"""The verb `diagnose`: from run folders to a verdict; `diagnose sharpness` for the numbers alone."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from largebatch.cli._output import duration, print_json

if TYPE_CHECKING:
    from largebatch.core import Task

__all__ = ["DiagnoseCommand", "SharpnessCommand", "run_diagnosis", "run_sharpness"]


@dataclass
class DiagnoseCommand:
    """Why is my large-batch model worse? Six hypotheses, judged from run folders of `largebatch train`.

    largebatch diagnose sharpness RUN... measures the sharpness of runs and judges nothing.

    Args:
        runs: folders of the small-batch runs, one for each seed; 3 or more give intervals.
        against: folders of the large-batch runs.
        out: folder for the evidence; what is there already is not measured again. {task}, {small} and {large} (batch
            sizes) are filled in.
        task: what the runs were trained on, where they do not tell: a built-in task or path/to/file.py:name.
        samples: of the training data, for curvature and sharpness; losses are exact.
        quick: two measures of sharpness, running statistics only, no paths.
        seed: of the subset and of random directions.
        device: cpu, cuda, cuda:1, mps.
        dry_run: print what it would cost, measure nothing.
        json: print the result as JSON on stdout.
    """

    runs: tuple[Path, ...]
    against: tuple[Path, ...] = ()
    out: Path = Path("diagnosis/{task}-{small}-against-{large}")
    task: str | None = None
    samples: int = 2048
    quick: bool = False
    seed: int = 0
    device: str = "cpu"
    dry_run: bool = False
    json: bool = False


@dataclass
class SharpnessCommand:
    """How sharp are the minima of these runs? Every measure side by side, on the same samples.

    Args:
        runs: run folders.
        kind: which measures, e.g. --kind metric_2_1 adaptive_linf; default: metric_2_1.
        all: all measures.
        batch_norm: whose statistics; batch is the mode of Keskar et al. 2017.
        samples: of the training data.
        task: what the runs were trained on, where they do not tell.
        seed: of the samples and of random directions.
        device: cpu, cuda, cuda:1, mps.
        dry_run: print what it would cost, measure nothing.
        json: print the result as JSON on stdout.
    """

    runs: tuple[Path, ...]
    kind: tuple[str, ...] = ("metric_2_1",)
    all: bool = False
    batch_norm: Literal["running", "batch", "reestimated"] = "running"
    samples: int = 2048
    task: str | None = None
    seed: int = 0
    device: str = "cpu"
    dry_run: bool = False
    json: bool = False


def run_diagnosis(command: DiagnoseCommand) -> int:
    """Tell the cost, measure, judge, print; returns the exit code."""
    from largebatch import diagnose

    plan = diagnose.Plan(command.samples, command.quick, command.seed, command.device)
    inquiry = diagnose.Inquiry(command.runs, command.against, out=command.out, task=_task(command.task), plan=plan)
    cost = inquiry.cost()
    if command.dry_run:
        print_json(cost.to_json()) if command.json else print(cost.text(), end="")
        return 0
    sys.stderr.write(cost.text())
    found = inquiry.run()
    print_json(found.to_json()) if command.json else print(found.text(), end="")
    return 0


def run_sharpness(command: SharpnessCommand) -> int:
    """Tell the cost, measure, print; returns the exit code."""
    from largebatch import diagnose

    survey = diagnose.Survey(
        command.runs, None if command.all else command.kind, batch_norm=command.batch_norm, samples=command.samples,
        task=_task(command.task), device=command.device, seed=command.seed,
    )  # fmt: skip
    costs = survey.cost()
    passes, seconds = sum(cost.passes for cost in costs), sum(cost.seconds for cost in costs)
    most = max(cost.memory_bytes for cost in costs)
    told = f"about {passes:.0f} passes, {duration(seconds)}, {most / 2**20:.0f} MiB\n"
    if command.dry_run:
        print_json({"kinds": [cost.to_json() for cost in costs]}) if command.json else print(told, end="")
        return 0
    sys.stderr.write(told)
    found = survey.measure()
    print_json(found.to_json()) if command.json else print(found.text(), end="")
    return 0


def _task(name: str | None) -> "Task | None":
    from largebatch import tasks

    return None if name is None else tasks.find(name)
