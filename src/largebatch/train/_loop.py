"""Training at any batch on any number of workers: one loop, over virtual workers.

An update is: the rate for the samples seen so far (Goyal et al. 2017, arXiv 1706.02677, section 2.2), the mean gradient of
the global batch (section 2.5), clipping of that aggregate, the step, one move of the running statistics. What this
machine looks like (ranks, micro-batches) never enters.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from tqdm import tqdm

from largebatch.core import (
    EpochView,
    Loader,
    Observer,
    Risk,
    Task,
    View,
    World,
    commit_statistics,
    data_size,
    distance,
    squared_norm,
    swap_batchnorm,
    world_from_environment,
)
from largebatch.recipe import Duration, Recipe, Timeline
from largebatch.train._divergence import trivial_loss
from largebatch.train._evaluate import evaluate
from largebatch.train._execution import Execution, autocast_of, dtype_of, prepare_model
from largebatch.train._gradient import BatchSums, GlobalGradient, Share
from largebatch.train._identity import build_model, identity
from largebatch.train._log import RunLog
from largebatch.train._check import check_task
from largebatch.train._optim import build_optimizer
from largebatch.train._run import Run
from largebatch.train._shares import shares
from largebatch.train._signals import StopRequest, stop_requests
from largebatch.train._state import State
from largebatch.train._store import RunStore, weights_are_finite

__all__ = ["fit"]

LOOKS_PER_EPOCH = 20  # rows of the log; each costs about as much as two optimiser steps
STOP_READ_EVERY = 16  # updates on a GPU, where reading a sum makes the host wait


def fit(
    task: Task,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    out: str | Path | None = None,
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
        out: run folder, in which {task} and {digest} are filled in. None writes nothing. A folder with an unfinished run of the same identity is continued, a
            finished one returns its result.
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
    device = execution.resolve_device()
    devices = [device] if device.type == "cuda" else []
    with world_from_environment(device) as world, torch.random.fork_rng(devices=devices), stop_requests() as stop:
        model = build_model(task, seed)
        digest = "" if out is None else identity(task, recipe, seed, model)
        store = RunStore(_folder(out, task, digest), digest, world, device)
        prepare_model(model, recipe, execution, device)
        check_task(task, model, device, recipe)
        finished = store.finished_run(model)
        if finished is not None:
            return finished
        with nullcontext() if store.folder is None else store.folder.lock():
            training = _Training(task, recipe, seed, model, world, execution, store, stop)
            training.cadence = Duration.parse(checkpoint_every), log_every
            training.observers += observers
            return training.run(progress and world.is_first)


def _folder(out: str | Path | None, task: Task, digest: str) -> Path | None:
    if out is None:
        return None
    return Path(str(out).replace("{task}", task.name.replace("/", "-")).replace("{digest}", digest))


def _recipe_for(task: Task, recipe: Recipe | None) -> Recipe:
    chosen = task.recipe if recipe is None else recipe
    if chosen is None:
        raise ValueError(f"recipe: task {task.name} brings none, so pass one: fit(task, Recipe(256, lr=0.1))")
    chosen.validate_for(data_size(task.train))
    return chosen


Status = Literal["finished", "diverged", "stopped"]


@final
class _Training:
    """One call of `fit`: what stays the same throughout, and the state that moves."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        seed: int,
        model: nn.Module,
        world: World,
        execution: Execution,
        store: RunStore,
        stop: StopRequest,
    ):
        self.task, self.recipe, self.seed, self.model = task, recipe, seed, model
        self.world, self.execution, self.store, self.stop = world, execution, store, stop
        self.device = next(model.parameters()).device
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.forward = torch.compile(model) if execution.compile else model
        self.cadence: tuple[Duration, int | None] = (Duration.parse("1ep"), None)
        self.observers: list[Observer] = []
        self.state = State()
        self.trivial = trivial_loss(task)
        self.start: list[Tensor] = []  # x₀
        self.begun = time.perf_counter()
        self.bar: tqdm[Any] | None = None

    def run(self, progress: bool) -> Run:
        """Every phase, from wherever the last call stopped."""
        phases = _phases(self.recipe)
        timelines = [Timeline(recipe, data_size(self.task.train)) for recipe, _ in phases]
        self.log_every = self.cadence[1] or max(1, timelines[0].updates_per_epoch // LOOKS_PER_EPOCH)
        self.observers.insert(0, RunLog(self.store.folder, self.log_every))
        self.loader = self._loader(self.task.train)
        self.held_out = self._loader(self.task.held_out)
        self.store.open(self.recipe, self.task.name, self.seed)
        carried = self._resume()
        for note in self.store.notes:
            _tell(note, self.world)
        total = sum(timeline.total_samples for timeline in timelines)
        status: Status = "finished"
        reason = ""
        with tqdm(total=total, initial=self.state.samples, unit=" samples", unit_scale=True, mininterval=0.5,
                  disable=None if progress else True, file=sys.stderr, desc=self.task.name) as self.bar:  # fmt: skip
            for number in range(self.state.phase, len(phases)):
                if number > self.state.phase:
                    self.state.start_phase()
                status, reason, carried = self._phase(timelines[number], phases[number][1], carried)
                if status != "finished":
                    break
        return self._result(status, reason)

    def _phase(self, timeline: Timeline, carry: str, carried: dict[str, Any] | None) -> tuple[Status, str, Any]:
        """Train one phase; returns its status, the reason, and the optimiser's state for the next."""
        recipe = timeline.recipe
        self.model.train()
        swap_batchnorm(self.model, recipe.ghost_batch_size, commit="update", world=self.world)
        optimizer = build_optimizer(self.model, recipe)
        if carried is not None and (carry == "all" or self.state.phase_update > 0):
            optimizer.load_state_dict(carried)
        gradient = GlobalGradient(
            self.model, self.task, recipe, self.world, self.device,
            seed=self.seed, micro_batch_size=self.execution.micro_batch_size, forward=self.forward,
        )  # fmt: skip
        if self.state.samples == 0:
            self._save(optimizer)
        interval = timeline.resolve(self.cadence[0])
        try:
            for share in self._shares(timeline):
                gradient.wants_stop = bool(self.stop)
                sums = self._update(share, timeline, optimizer, gradient)
                reason = self._end_of_epoch(timeline) if self._is_end_of_epoch(timeline) else self._look(timeline)
                if reason:
                    return "diverged", reason, None
                done = self.state.phase_samples
                due = done // interval > (done - share.batch_size) // interval or done >= timeline.total_samples
                stopping = self._is_stopping(sums)
                if due or stopping:
                    if not weights_are_finite(self.model):
                        return "diverged", f"diverged at step {self.state.update - 1}: the weights are not finite", None
                    self._save(optimizer)
                if stopping and done < timeline.total_samples:
                    return "stopped", f"stopped by a signal after update {self.state.update}", None
        finally:
            gradient.close()
        return "finished", "", optimizer.state_dict()

    def _update(self, share: Share, timeline: Timeline, optimizer: Any, gradient: GlobalGradient) -> BatchSums:
        """One update of the weights; shows observers what they asked for."""
        state, recipe = self.state, timeline.recipe
        requests = [(observer, observer.wants(state.update)) for observer in self.observers]
        asked = [request for _, request in requests if request is not None]
        wants_norms = any(request.norms for request in asked)
        parts = max((request.parts for request in asked), default=1)
        rate = timeline.rate(state.phase_samples)
        for group in optimizer.param_groups:
            group["lr"] = rate
        before = [p.detach().clone() for p in self.parameters] if wants_norms else []
        passes: list[tuple[BatchSums, Tensor | None]] = []

        def compute(first: bool = True) -> None:
            sums = gradient(share, parts=parts if first else 1, is_first=first)
            grads = [p.grad for p in self.parameters if p.grad is not None]
            passes.append((sums, squared_norm(grads) if first and wants_norms else None))
            if recipe.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.parameters, recipe.clip_norm)

        optimizer.step(compute)
        sums, gradient_squared_norm = passes[0]
        commit_statistics(self.model, sums.statistics)
        loss = state.add(sums, share.batch_size)
        if asked:
            now = [p.detach() for p in self.parameters]
            view = View(
                update=state.update - 1, phase=state.phase, samples=state.samples, batch_size=share.batch_size,
                epoch=state.phase_samples / timeline.train_size, lr=rate, loss=loss,
                gradient_squared_norm=gradient_squared_norm,
                step_norm=distance(now, before) if wants_norms else None,
                distance=distance(now, self.start) if wants_norms else None,
                partials=sums.partials,
                risk=self._risk() if any(request.risk for request in asked) else None,
            )  # fmt: skip
            for observer, request in requests:
                if request is not None:
                    observer.see(view)
        if self.bar is not None:
            self.bar.update(share.batch_size)
        return sums

    def _is_stopping(self, sums: BatchSums) -> bool:
        """Whether any rank was asked to stop; all see the same sum, so all stop after the same update."""
        if self.world.size == 1:
            return bool(self.stop)
        is_read = self.device.type == "cpu" or self.state.update % STOP_READ_EVERY == 0
        return is_read and bool(sums.stop > 0)

    def _look(self, timeline: Timeline) -> str:
        """Between epochs: a loss that is not finite ends the run at the next row of the log."""
        if self.state.update % self.log_every or torch.isfinite(self.state.losses[-1]):
            return ""
        return self._judge(timeline, epoch=-1)

    def _is_end_of_epoch(self, timeline: Timeline) -> bool:
        done = self.state.phase_update
        return done == timeline.total_updates or timeline.batch_of(done)[1] == 0

    def _end_of_epoch(self, timeline: Timeline) -> str:
        """Evaluate, show, judge; returns why the run has diverged, or ""."""
        state = self.state
        epoch = timeline.batch_of(state.phase_update - 1)[0]
        reason = self._judge(timeline, epoch)
        if reason:
            return reason
        held_out = self._evaluate(self.held_out, data_size(self.task.held_out))
        metrics = state.epoch_means(list(self.task.metrics)) | {f"held_out_{k}": v for k, v in held_out.items()}
        seconds = state.seconds + time.perf_counter() - self.begun
        view = EpochView(epoch, state.phase, state.update, state.samples, seconds, metrics)
        for observer in self.observers:
            observer.see_epoch(view)
        score = held_out.get("accuracy", -held_out["loss"])
        if state.best_score is None or score > state.best_score:
            state.best_score, state.best_samples = score, state.samples
        if self.bar is not None:
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()}, refresh=False)
        state.start_epoch()
        return ""

    def _judge(self, timeline: Timeline, epoch: int) -> str:
        losses = self.state.recent_losses()
        first = self.state.update - len(losses)
        is_last = self.state.phase_update == timeline.total_updates
        return self.state.history.judge(losses, first, epoch=epoch, is_last=is_last, trivial=self.trivial)

    def _result(self, status: Status, reason: str) -> Run:
        state = self.state
        state.seconds += time.perf_counter() - self.begun
        metrics: dict[str, float] = {}
        if status != "stopped":
            splits = {"train": (self.loader, self.task.train), "test": (self._loader(self.task.test), self.task.test)}
            if self.task.validation is not None:
                splits["validation"] = self.held_out, self.task.validation
            for split, (loader, data) in splits.items():
                found = self._evaluate(loader, data_size(data))
                metrics |= {f"{split}_{name}": value for name, value in found.items()}
        run = Run(
            task=self.task.name, recipe=self.recipe.to_json(), seed=self.seed, status=status, reason=reason,
            updates=state.update, samples=state.samples, seconds=state.seconds,
            samples_per_second=state.samples / max(state.seconds, 1e-9), metrics=metrics,
            folder=str(self.store.path) if self.store.exists else None, notes=tuple(self.store.notes), model=self.model,
        )  # fmt: skip
        if status != "stopped":
            self.store.finish(run)
        return run

    def _resume(self) -> dict[str, Any] | None:
        """Take up the newest checkpoint; returns the optimiser's state in it."""
        self.start = [p.detach().clone() for p in self.parameters]
        checkpoint = self.store.resume()
        if checkpoint is None:
            return None
        training = checkpoint.training_state()
        self.model.load_state_dict(checkpoint.model_state())
        self.state = State.from_state_dict(training["state"], self.device, dtype_of(self.recipe))
        for observer in self.observers:
            if observer.name in training["observers"]:
                observer.load_state_dict(training["observers"][observer.name])
        return training["optimizer"]

    def _save(self, optimizer: Any) -> None:
        now = time.perf_counter()
        self.state.seconds += now - self.begun
        self.begun = now
        self.store.save(self.state, self.model, optimizer, self.observers)

    def _shares(self, timeline: Timeline) -> Iterator[Share]:
        state = self.state
        return shares(
            self.loader, timeline, self.world, seed=self.seed, phase=state.phase, first_update=state.phase_update,
            micro=self.execution.micro_batch_size,
        )  # fmt: skip

    def _evaluate(self, loader: Loader, samples: int) -> dict[str, float]:
        autocast = autocast_of(self.recipe, self.device)
        return evaluate(self.model, self.task, loader, samples, self.world, autocast=autocast, device=self.device)

    def _loader(self, data: Any) -> Loader:
        workers = self.execution.loader_workers
        return Loader(data, self.device, seed=self.seed, dtype=dtype_of(self.recipe), workers=workers)

    def _risk(self) -> Risk:
        return Risk(self.model, self.task.loss, self.task.train, world=self.world)


def _phases(recipe: Recipe) -> list[tuple[Recipe, str]]:
    """The recipe and its successors, each with what it carries over from the one before."""
    phases: list[tuple[Recipe, str]] = [(recipe, "weights")]
    while phases[-1][0].then is not None:
        following = phases[-1][0].then
        phases.append((following.recipe, following.carry))
    return phases


def _tell(note: str, world: World) -> None:
    if world.is_first:
        sys.stderr.write(f"note: {note}\n")
