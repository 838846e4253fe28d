"""The verb `train`."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from largebatch.cli._output import duration, print_json

if TYPE_CHECKING:
    from largebatch.recipe import Recipe
    from largebatch.train import Execution, Preview, Run

__all__ = ["TrainCommand", "run_training"]

T = TypeVar("T")


@dataclass
class TrainCommand:
    """Train a task at any batch, on any number of workers; an interrupted run is continued.

    Args:
        task: a built-in task (see `largebatch tasks`) or path/to/file.py:name.
        batch: global batch size; whatever must move with it moves, and is listed. Default: the recipe's own.
        rule: how the learning rate follows the batch. Default: linear for SGD, square root for Adam and LAMB.
        budget: equal epochs, or equal updates (a larger batch then sees more samples).
        warmup: gradual warmup from the small-batch rate where the batch grows, or none.
        set: change one field after everything else, e.g. --set recipe.lr=0.2 --set recipe.duration=30ep.
        seed: initial weights, order of the data, augmentation, dropout.
        out: run folder; {task} and {digest} are filled in.
        workers: processes on this machine; under torchrun leave it out.
        device: cpu, cuda, cuda:1, mps. Default: the GPU where there is one.
        micro_batch_size: samples in one forward pass; changes memory and speed, not the result.
        loader_workers: processes that read data sets from disk.
        channels_last: memory format of convolutional networks.
        compile: torch.compile the model.
        checkpoint_every: a duration such as 1ep or 500steps.
        tensorboard: also write curves to this folder.
        dry_run: print changes, updates, time, memory and warnings; train nothing.
        json: print the result as JSON on stdout.
    """

    task: str
    batch: int | None = None
    rule: Literal["linear", "sqrt", "none"] | None = None
    budget: Literal["epochs", "updates"] = "epochs"
    warmup: Literal["auto", "none"] = "auto"
    set: tuple[str, ...] = ()
    seed: int = 0
    out: Path = Path("runs/{task}-{digest}")
    workers: int = 1
    device: str | None = None
    micro_batch_size: int | None = None
    loader_workers: int = 0
    channels_last: bool = False
    compile: bool = False
    checkpoint_every: str = "1ep"
    tensorboard: Path | None = None
    dry_run: bool = False
    json: bool = False


def run_training(command: TrainCommand, words: list[str]) -> int:
    """Train, or preview; `words` is the whole command, for the workers. Returns the exit code."""
    from largebatch import train

    train.leave_with_parent()
    if command.workers != 1 and "RANK" not in os.environ and not command.dry_run:
        return train.launch(words, command.workers)
    from largebatch import tasks
    from largebatch.core import data_size

    task = tasks.find(command.task)
    recipe, execution = _settle(command, task.recipe)
    if command.dry_run:
        expected = train.preview(task, recipe, workers=command.workers, execution=execution, seed=command.seed)
        print_json(expected.to_json()) if command.json else print(_describe_preview(expected), end="")
        return 0
    is_first = os.environ.get("RANK", "0") == "0"
    train.prepare(task, recipe, execution, seed=command.seed)  # a mistake is said alone
    if is_first:
        sys.stderr.write(_describe_changes(recipe))
        for warning in recipe.warnings(data_size(task.train)):
            sys.stderr.write(f"warning: {warning}\n")
    observers = [train.TensorBoard(command.tensorboard)] if command.tensorboard and is_first else []
    run = train.fit(
        task, recipe, seed=command.seed, out=command.out, observers=observers, execution=execution,
        checkpoint_every=command.checkpoint_every,
    )  # fmt: skip
    if is_first:
        print_json(run.to_json()) if command.json else print(_describe_run(run), end="")
    if run.status == "stopped":
        return 143 if "SIGTERM" in run.reason else 130
    return 1 if run.status == "diverged" else 0


def _settle(command: TrainCommand, recipe: "Recipe | None") -> "tuple[Recipe, Execution]":
    """The recipe and the machine as the options say.

    Raises:
        ValueError: with the mistakes of all options together.
    """
    from largebatch.train import Execution, checkpoint_interval

    if recipe is None:
        raise ValueError(f"task {command.task}: brings no recipe; give it one: Task(…, recipe=Recipe(256, lr=0.1))")
    mistakes: list[str] = []

    def attempt(make: Callable[[], T], otherwise: T) -> T:
        try:
            return make()
        except ValueError as error:
            mistakes.append(str(error))
            return otherwise

    batch, own = command.batch, recipe
    if batch is not None:
        warmup = None if command.warmup == "none" else "auto"
        recipe = attempt(lambda: own.at(batch, budget=command.budget, rule=command.rule, warmup=warmup), own)
    moved = recipe
    recipe = attempt(lambda: moved.override(command.set), moved)
    execution = attempt(
        lambda: Execution(
            command.device, command.micro_batch_size, command.loader_workers, command.channels_last, command.compile
        ),
        Execution(),
    )
    attempt(execution.resolve_device, None)
    attempt(lambda: checkpoint_interval(command.checkpoint_every), None)
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return recipe, execution


def _describe_changes(recipe: "Recipe") -> str:
    if not recipe.changes:
        return ""
    lines = [f"  {c.field}: {c.before} → {c.after}   ({c.rule}; {c.source})" for c in recipe.changes]
    return "\n".join(["what moves with the batch:", *lines, ""])


def _describe_preview(preview: "Preview") -> str:
    lines = [
        f"{preview.task} at batch {preview.global_batch_size} on {preview.workers} worker(s)",
        f"  updates         {preview.updates_per_epoch} per epoch, {preview.total_updates} in all",
        f"  samples         {preview.total_samples}",
        f"  parameters      {preview.parameters}",
        f"  micro-batch     {preview.micro_batch_size} samples",
        f"  time            about {duration(preview.expected_seconds)} of training (measured on one pass)",
        f"  memory          about {preview.expected_bytes / 2**20:.0f} MiB per worker",
    ]
    changes = "".join(f"  {c.field}: {c.before} → {c.after}   ({c.rule}; {c.source})\n" for c in preview.changes)
    text = "\n".join(lines) + "\n" + (f"what moves with the batch:\n{changes}" if changes else "")
    return text + "".join(f"warning: {warning}\n" for warning in preview.warnings)


def _describe_run(run: "Run") -> str:
    lines = [f"{run.task}: {run.status}" + (f": {run.reason}" if run.reason else "")]
    lines += [f"  {name:<16}{value:.4f}" for name, value in run.metrics.items()]
    lines += [
        f"  {'updates':<16}{run.updates}",
        f"  {'samples':<16}{run.samples}",
        f"  {'time':<16}{duration(run.seconds)} ({run.samples_per_second:.0f} samples/s)",
        f"  {'folder':<16}{run.folder}",
    ]
    return "\n".join(lines) + "\n"
