"""`fit`: the door to the loop. Checks what it is given, finds or makes the run, and trains."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from largebatch.core import Checkpoint, Observer, Task, data_size, world_from_environment
from largebatch.recipe import Duration, Recipe, Timeline
from largebatch.train._check import prepare
from largebatch.train._execution import Execution
from largebatch.train._identity import identity
from largebatch.train._log import RunLog
from largebatch.train._loop import Training
from largebatch.train._run import Run
from largebatch.train._signals import stop_requests
from largebatch.train._store import RunStore

__all__ = ["checkpoint_interval", "fit"]

LOOKS_PER_EPOCH = 20  # rows of the log; each costs about as much as two optimiser steps


def fit(
    task: Task,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    start: Checkpoint | None = None,
    observers: Sequence[Observer] = (),
    execution: Execution | None = None,
    checkpoint_every: str = "1ep",
    log_every: int | None = None,
    progress: bool = True,
) -> Run:
    """Train a task by a recipe; resume by default.

    Under torchrun (or `largebatch train --workers N`) every rank calls this alike.

    Args:
        recipe: None takes the task's own.
        seed: of the initial weights, the order of the data, augmentation and dropout.
        out: run folder, in which {task} and {digest} are filled in. None writes nothing. A folder with an unfinished run
            of the same identity is continued, a finished one returns its result.
        start: weights, statistics and optimiser state to begin with, as a checkpoint of another run of this task holds them;
            samples count from 0. None: the initial ones of `seed`.
        observers: onlookers, see `core.Observer`.
        execution: device, micro-batch, loader: how to compute, never what.
        checkpoint_every: a duration such as "1ep" or "500steps".
        log_every: updates between rows of the log; None: 20 rows an epoch.
        progress: a bar on stderr, where that is a terminal.

    Raises:
        ValueError: the recipe does not fit the task or the folder; the message says what to change.
    """
    recipe = _recipe_for(task, recipe)
    execution = Execution() if execution is None else execution
    cadence = checkpoint_interval(checkpoint_every)
    model, device = prepare(task, recipe, execution, seed=seed)
    if start is not None:
        model.load_state_dict(start.model_state())
    digest = "" if out is None else identity(task, recipe, seed, model)
    devices = [device] if device.type == "cuda" else []
    with world_from_environment(device) as world, torch.random.fork_rng(devices=devices), stop_requests() as stop:
        store = RunStore(_folder(out, task, digest), digest, world, device)
        finished = store.finished_run(model)
        if finished is not None:
            return finished
        with nullcontext() if store.folder is None else store.folder.lock():
            training = Training(
                task=task,
                recipe=recipe,
                seed=seed,
                model=model,
                world=world,
                execution=execution,
                store=store,
                stop=stop,
                moments=None if start is None else start.training_state()["optimizer"],
                checkpoint_every=cadence,
                log_every=log_every or _log_every(recipe, task),
            )
            log = RunLog(store.folder, training.log_every)
            return training.run([log, *observers], progress=progress and world.is_first)


def checkpoint_interval(text: str) -> Duration:
    """How often to checkpoint.

    Raises:
        ValueError: no duration, or one of length 0.
    """
    try:
        interval = Duration.parse(text)
    except ValueError as error:
        raise ValueError(f"checkpoint_every: {error}") from error
    if interval.value == 0:
        raise ValueError(f"checkpoint_every: expected a length above 0, got {text!r}; give for example 1ep")
    return interval


def _log_every(recipe: Recipe, task: Task) -> int:
    return max(1, Timeline(recipe, data_size(task.train)).updates_per_epoch // LOOKS_PER_EPOCH)


def _folder(out: str | Path | None, task: Task, digest: str) -> Path | None:
    if out is None:
        return None
    return Path(str(out).replace("{task}", task.name.replace("/", "-")).replace("{digest}", digest))


def _recipe_for(task: Task, recipe: Recipe | None) -> Recipe:
    chosen = task.recipe if recipe is None else recipe
    if chosen is None:
        raise ValueError(f"recipe: task {task.name} brings none, so pass one: fit(task, Recipe(256, lr=0.1))")
    return chosen
