"""The command line: a verb is a question. Results go to stdout, progress and remarks to stderr.

Exit codes: 0 done, 1 the answer is negative (a run diverged), 2 the input is wrong, 130 or 143 stopped by Ctrl-C or SIGTERM
after a checkpoint.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import largebatch

if TYPE_CHECKING:
    from largebatch.recipe import Recipe
    from largebatch.train import Preview, Run

__all__ = ["main"]

HELP = """\
largebatch: train with large batches without losing accuracy, and know why when you do lose it

usage: largebatch VERB …          largebatch VERB --help

  demo       What does a large batch cost, and what wins it back? Four recipes on real digits, a minute.
  train      I have a recipe tuned at batch 256. Train it at 8192, on any number of workers.
  tasks      What can I train out of the box, and is its data here?

  --help     this text
  --version  the version
"""


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


@dataclass
class TasksCommand:
    """The built-in tasks, what data each needs, and whether it is there.

    Args:
        json: print the table as JSON on stdout.
    """

    json: bool = False


@dataclass
class DemoCommand:
    """Small batch, large batch, linear rule without and with warmup: on digits, five seeds each.

    Args:
        seeds: runs of each recipe; an interval needs at least 2.
        json: print the table as JSON on stdout.
    """

    seeds: int = 5
    json: bool = False


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    verb, rest = (words[0], words[1:]) if words else ("--help", [])
    if verb in ("--help", "-h", "help"):
        print(HELP, end="")
        return 0
    if verb == "--version":
        print(largebatch.__version__)
        return 0
    verbs: dict[str, tuple[type, Callable[[Any], int]]] = {
        "demo": (DemoCommand, _demo),
        "train": (TrainCommand, lambda command: _train(command, words)),
        "tasks": (TasksCommand, _tasks),
    }
    if verb not in verbs:
        return _fail(f"verb: expected one of {', '.join(verbs)}, got {verb!r}; see largebatch --help")
    return _run(*verbs[verb], verb, rest)


def _run(command_type: type, action: Callable[[Any], int], verb: str, rest: list[str]) -> int:
    import tyro

    try:
        markers = (tyro.conf.PositionalRequiredArgs, tyro.conf.UseAppendAction, tyro.conf.FlagCreatePairsOff)
        command = tyro.cli(command_type, args=rest, prog=f"largebatch {verb}", config=markers)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        return action(command)
    except KeyboardInterrupt:
        return 130
    except (ValueError, TypeError, OSError, ModuleNotFoundError, RuntimeError) as error:
        if not _is_ours(error) or os.environ.get("LARGEBATCH_TRACEBACK"):
            raise
        return _fail(str(error))


def _train(command: TrainCommand, words: list[str]) -> int:
    from largebatch import train

    train.leave_with_parent()
    if command.workers != 1 and "RANK" not in os.environ and not command.dry_run:
        return train.launch(words, command.workers)
    from largebatch import tasks
    from largebatch.core import data_size
    from largebatch.recipe import Duration

    task = tasks.find(command.task)
    recipe = _recipe(command, task.recipe)
    execution = train.Execution(
        command.device, command.micro_batch_size, command.loader_workers, command.channels_last, command.compile
    )
    if command.dry_run:
        expected = train.preview(task, recipe, workers=command.workers, execution=execution, seed=command.seed)
        _print_json(expected.to_json()) if command.json else print(_describe_preview(expected), end="")
        return 0
    is_first = os.environ.get("RANK", "0") == "0"
    train.prepare(task, recipe, execution, seed=command.seed)  # a mistake is said alone
    Duration.parse(command.checkpoint_every)
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
        _print_json(run.to_json()) if command.json else print(_describe_run(run), end="")
    if run.status == "stopped":
        return 143 if "SIGTERM" in run.reason else 130
    return 1 if run.status == "diverged" else 0


def _recipe(command: TrainCommand, recipe: "Recipe | None") -> "Recipe":
    if recipe is None:
        raise ValueError(f"task {command.task}: brings no recipe; give it one: Task(…, recipe=Recipe(256, lr=0.1))")
    if command.batch is not None:
        warmup = None if command.warmup == "none" else "auto"
        recipe = recipe.at(command.batch, budget=command.budget, rule=command.rule, warmup=warmup)
    return recipe.override(command.set)


def _tasks(command: TasksCommand) -> int:
    from largebatch import tasks
    from largebatch.results import Table

    rows = tasks.available()
    if command.json:
        _print_json([vars(row) for row in rows])
        return 0
    columns = ("task", "network", "train", "test", "data", "here")
    cells = [(row.name, row.network, row.train_size, row.test_size, row.data, row.present) for row in rows]
    print(Table(columns, cells).text())
    missing = {row.data: row.where for row in rows if not row.present}
    if missing:
        print("\nhow to get what is not here:")
        print("\n".join(f"  {data}: {where}" for data, where in missing.items()))
    print("\nYour own: largebatch train path/to/file.py:name, where name is a largebatch.core.Task.")
    return 0


def _demo(command: DemoCommand) -> int:
    from largebatch import study

    result = study.demo(seeds=command.seeds)
    _print_json(result.to_json()) if command.json else print(result.text(), end="")
    return 0


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
        f"  time            about {_duration(preview.expected_seconds)} of training (measured on one pass)",
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
        f"  {'time':<16}{_duration(run.seconds)} ({run.samples_per_second:.0f} samples/s)",
        f"  {'folder':<16}{run.folder}",
    ]
    return "\n".join(lines) + "\n"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _print_json(value: Any) -> None:
    from largebatch.results import encode

    print(json.dumps(encode(value), indent=2, allow_nan=False))


def _fail(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return 2


def _is_ours(error: BaseException) -> bool:
    """Whether largebatch itself raised it: an error from a user's own code keeps its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
