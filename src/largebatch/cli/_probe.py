"""The verb `probe`: how large a batch still pays."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from largebatch.cli._output import print_json

if TYPE_CHECKING:
    from largebatch.recipe import Recipe

__all__ = ["ProbeCommand", "run_probe"]


@dataclass
class ProbeCommand:
    """How large a batch still pays, for this model on this data?

    Trains for a while at a constant rate, which it tunes first, and measures the gradient noise. --critical branches from
    there; --sweep trains every batch to the same loss. Each route costs more than the one before, and its cost is told
    first (--dry-run: only that). Adam's noise is measured as Adam sees gradients.

    Args:
        task: a built-in task (see `largebatch tasks`) or path/to/file.py:name.
        critical: the critical batch by branched training, beside the noise scale.
        sweep: also by samples to a target at every batch.
        batch: global batch of the training that is watched. Default: the recipe's own.
        batches: of branches and sweep, e.g. --batches 64 256 1024 4096.
        samples: of the training that is watched. Default: an epoch.
        target: training loss of the sweep. Default: that of the end of the training that is watched.
        set: change one field of the recipe, e.g. --set recipe.lr=0.2.
        seed: initial weights and order of the data.
        out: folder; {task} is filled in.
        dry_run: print what each route costs, train nothing.
        json: print the result as JSON on stdout.
    """

    task: str
    critical: bool = False
    sweep: bool = False
    batch: int | None = None
    batches: tuple[int, ...] = ()
    samples: int | None = None
    target: float | None = None
    set: tuple[str, ...] = ()
    seed: int = 0
    out: Path = Path("probes/{task}")
    dry_run: bool = False
    json: bool = False


def run_probe(command: ProbeCommand) -> int:
    """Tell the cost, measure, judge, print; returns the exit code."""
    from largebatch import tasks, trials

    task = tasks.find(command.task)
    recipe = _recipe(command, task.recipe)
    wanted = {"noise scale": True, "branches": command.critical or command.sweep, "sweep": command.sweep}
    plan = trials.ProbePlan.of(
        task, recipe, samples=command.samples, batch_sizes=command.batches,
        routes=[name for name, is_wanted in wanted.items() if is_wanted], target=command.target,  # pyright: ignore
    )  # fmt: skip
    cost = trials.probe_cost(task, recipe, plan)
    if command.dry_run:
        print_json(cost.to_json()) if command.json else print(cost.text(), end="")
        return 0
    sys.stderr.write(cost.text())
    out = Path(str(command.out).replace("{task}", task.name.replace("/", "-")))
    found = trials.run_probe(task, recipe, plan, out=out, seed=command.seed)
    print_json(found.to_json()) if command.json else print(found.text(), end="")
    return 0


def _recipe(command: ProbeCommand, recipe: "Recipe | None") -> "Recipe":
    if recipe is None:
        raise ValueError(f"task {command.task}: brings no recipe; give it one: Task(…, recipe=Recipe(256, lr=0.1))")
    moved = recipe if command.batch is None else recipe.at(command.batch, warmup=None)
    return moved.override(command.set)
