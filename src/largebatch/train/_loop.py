"""Training at any batch on any number of workers: one loop, over virtual workers.

An update is: the rate for the samples seen so far (Goyal et al. 2017, arXiv 1706.02677, section 2.2), the mean gradient of
the global batch (section 2.5), clipping of that aggregate, the step, one move of the running statistics. What this
machine looks like (ranks, micro-batches) never enters.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
    distance_,
    squared_norm,
    swap_batchnorm,
)
from largebatch.noise import NoiseScale, preconditioner_roots
from largebatch.optimizers import build_optimizer, load_moments
from largebatch.recipe import Duration, Recipe, Timeline
from largebatch.train._divergence import ADVICE, trivial_loss
from largebatch.train._evaluate import EVALUATION_SAMPLES, evaluate
from largebatch.train._execution import Execution, autocast_of, dtype_of
from largebatch.train._follow import follower, grown, present_timeline
from largebatch.train._gradient import BatchSums, GlobalGradient, Share
from largebatch.train._run import Run
from largebatch.train._shares import shares
from largebatch.train._signals import StopRequest
from largebatch.train._state import State
from largebatch.train._store import RunStore, weights_are_finite

__all__ = ["Training"]

STOP_READ_EVERY = 16  # updates on a GPU, where reading a sum makes the host wait

Status = Literal["finished", "diverged", "stopped"]


@final
@dataclass(kw_only=True)
class Training:
    """One call of `fit`: what stays the same throughout, and the state that moves."""

    task: Task
    recipe: Recipe
    seed: int
    model: nn.Module
    world: World
    execution: Execution
    store: RunStore
    stop: StopRequest
    checkpoint_every: Duration
    log_every: int
    moments: dict[str, Any] | None = None  # state of the optimiser to begin with

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.weights = [p.detach() for p in self.parameters]  # the same memory, without a graph
        self.start = [p.clone() for p in self.weights]  # x₀
        self.before = [p.clone() for p in self.weights]  # one buffer for the whole run: pages stay warm
        self.forward = torch.compile(self.model) if self.execution.compile else self.model
        self.trivial = trivial_loss(self.task)
        self.loader = self._loader(self.task.train)
        self.held_out = self._loader(self.task.held_out)
        self.state = State()
        self.last_held_out: dict[str, float] | None = None  # at the present weights
        self.observers: list[Observer] = []
        self.noise: NoiseScale | None = None  # that the batch follows
        self.begun = time.perf_counter()
        self.bar: tqdm[Any] | None = None

    def run(self, observers: list[Observer], *, progress: bool) -> Run:
        """Every phase, from wherever the last call stopped."""
        phases = _phases(self.recipe)
        timelines = [Timeline(recipe, data_size(self.task.train)) for recipe, _ in phases]
        following = [recipe for recipe, _ in phases if recipe.batch == "follow-noise"]
        self.noise = follower(following[0]) if following else None
        self.observers = observers if self.noise is None else [*observers, self.noise]
        self.store.open(self.recipe, self.task, self.seed)
        carried = self._resume() or self.moments
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
                carry = phases[number][1]
                while status == "finished" and self.state.phase_samples < timelines[number].duration_samples:
                    present = present_timeline(timelines[number], self.state, self.noise)
                    status, reason, carried = self._phase(present, carry, carried)
                    carry = "all"
                if status != "finished":
                    break
        return self._result(status, reason)

    def _phase(self, timeline: Timeline, carry: str, carried: dict[str, Any] | None) -> tuple[Status, str, Any]:
        """Train one phase, or its part at one batch; returns status, reason, and the optimiser's state for the next."""
        recipe = timeline.recipe
        self.model.train()
        swap_batchnorm(self.model, recipe.ghost_batch_size, commit="update", world=self.world)
        optimizer = build_optimizer(self.model, recipe)
        if carried is not None and (carry == "all" or self.state.phase_update > 0):
            load_moments(optimizer, carried)
        gradient = GlobalGradient(
            self.model, self.task, recipe, self.world, self.device,
            seed=self.seed, micro_batch_size=self.execution.micro_batch_size, forward=self.forward, stop=self.stop.__bool__,
        )  # fmt: skip
        if self.state.samples == 0:
            self._save(optimizer)
        interval = timeline.resolve(self.checkpoint_every)
        try:
            for share in self._shares(timeline):
                sums = self._update(share, timeline, optimizer, gradient)
                reason = self._end_of_epoch(timeline) if self._is_end_of_epoch(timeline) else self._look(timeline)
                if reason:
                    return "diverged", f"{reason}; {ADVICE}", None
                done = self.state.phase_samples
                due = done // interval > (done - share.batch_size) // interval or done >= timeline.total_samples
                stopping = self._is_stopping(sums)
                if due or stopping:
                    if not weights_are_finite(self.model):
                        step = self.state.update - 1
                        return "diverged", f"diverged at step {step}: the weights are not finite; {ADVICE}", None
                    self._save(optimizer)
                if self._outgrown(timeline) and not stopping:
                    break
                if stopping and done < timeline.total_samples:
                    cause = f"{self.stop.name or 'a signal to another worker'} after update {self.state.update}"
                    return "stopped", f"stopped by {cause}; the same call continues it", None
        finally:
            gradient.close()
            swap_batchnorm(self.model, recipe.ghost_batch_size)  # outside this loop nothing would commit its statistics
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
        if wants_norms:
            torch._foreach_copy_(self.before, self.weights)
        roots = None
        if any(request.preconditioned for request in asked):
            roots = preconditioner_roots(optimizer, self.parameters)
            parts = 1 if roots is None else parts
        passes: list[tuple[BatchSums, Tensor | None]] = []

        def compute(first: bool = True) -> None:
            sums = gradient(share, parts=parts if first else 1, roots=roots, is_first=first)
            grads = [p.grad for p in self.parameters if p.grad is not None]
            passes.append((sums, squared_norm(grads) if first and wants_norms else None))
            if recipe.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.parameters, recipe.clip_norm)

        optimizer.step(compute)
        sums, gradient_squared_norm = passes[0]
        commit_statistics(self.model, sums.statistics)
        self.last_held_out = None
        loss = state.add(sums, share.batch_size)
        if asked:
            step_norm, moved = self._distances() if wants_norms else (None, None)
            view = View(
                update=state.update - 1, phase=state.phase, samples=state.samples, batch_size=share.batch_size,
                epoch=state.phase_samples / timeline.train_size, lr=rate, loss=loss,
                gradient_squared_norm=gradient_squared_norm,
                step_norm=step_norm, distance=moved,
                partials=sums.partials,
                risk=self._risk() if any(request.risk for request in asked) else None,
            )  # fmt: skip
            for observer, request in requests:
                if request is not None:
                    observer.see(view)
        if self.bar is not None:
            self.bar.update(share.batch_size)
        return sums

    def _distances(self) -> tuple[Tensor, Tensor]:
        """‖x_{t+1} − x_t‖ and ‖x_{t+1} − x_0‖; uses `before` up."""
        step_norm = distance_(self.before, self.weights)
        torch._foreach_copy_(self.before, self.weights)
        return step_norm, distance_(self.before, self.start)

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

    def _outgrown(self, timeline: Timeline) -> bool:
        """Whether a batch that follows the noise is to grow here."""
        state, recipe = self.state, timeline.recipe
        if self.noise is None or recipe.batch == "fixed" or state.phase_samples % timeline.train_size:
            return False
        return grown(recipe.global_batch_size, self.noise, timeline.train_size) > recipe.global_batch_size

    def _is_end_of_epoch(self, timeline: Timeline) -> bool:
        done = self.state.phase_update
        return done == timeline.total_updates or done % timeline.updates_per_epoch == 0

    def _end_of_epoch(self, timeline: Timeline) -> str:
        """Evaluate, show, judge; returns why the run has diverged, or ""."""
        state = self.state
        epoch = timeline.epoch_of(state.phase_update - 1)
        reason = self._judge(timeline, epoch)
        held_out = self._evaluate(self.held_out, data_size(self.task.held_out))
        self.last_held_out = held_out
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
        return reason

    def _judge(self, timeline: Timeline, epoch: int) -> str:
        losses = self.state.recent_losses()
        first = self.state.update - len(losses)
        is_last = self.state.phase_update == timeline.total_updates and timeline.recipe.then is None
        return self.state.history.judge(losses, first, epoch=epoch, is_last=is_last, trivial=self.trivial)

    def _result(self, status: Status, reason: str) -> Run:
        state = self.state
        if status == "diverged" and self.store.saved_samples is not None:
            reason += f"; the last good checkpoint is {self.store.path}/checkpoints/{self.store.saved_samples}"
        state.seconds += time.perf_counter() - self.begun
        metrics: dict[str, float] = {}
        if status != "stopped":
            for split, data in (
                ("train", self.task.train),
                ("test", self.task.test),
                ("validation", self.task.validation),
            ):
                if data is not None:
                    is_fresh = data is self.task.held_out and self.last_held_out is not None
                    found = self.last_held_out if is_fresh else self._evaluate(self._loader(data), data_size(data))
                    metrics |= {f"{split}_{name}": value for name, value in (found or {}).items()}
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
        return evaluate(
            self.model, self.task, loader, samples, self.world, autocast=autocast, device=self.device,
            batch_size=self.execution.micro_batch_size or EVALUATION_SAMPLES,
        )  # fmt: skip

    def _loader(self, data: Any) -> Loader:
        workers = self.execution.loader_workers
        return Loader(data, self.device, seed=self.seed, dtype=dtype_of(self.recipe), workers=workers)

    def _risk(self) -> Risk:
        return Risk(self.model, self.task.loss, self.task.train, world=self.world)


def _phases(recipe: Recipe) -> list[tuple[Recipe, str]]:
    """The recipe and its successors, each with what it carries over from the one before."""
    phases: list[tuple[Recipe, str]] = [(recipe, "all")]
    while phases[-1][0].then is not None:
        following = phases[-1][0].then
        phases.append((following.recipe, following.carry))
    return phases


def _tell(note: str, world: World) -> None:
    if world.is_first:
        sys.stderr.write(f"note: {note}\n")
