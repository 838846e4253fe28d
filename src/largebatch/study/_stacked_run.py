"""Runs of several seeds trained as one: the same updates, rows and files as `train.fit`, for networks that `Stack` knows.

Which runs are trained so follows from the task and the recipe alone, and a network in a stack does not depend on its
neighbours, so an interrupted study ends as an uninterrupted one. There are no checkpoints on the way: such runs take
seconds, and an interrupted stack begins again.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from largebatch import train
from largebatch.core import (
    Risk,
    Task,
    View,
    World,
    accuracy,
    cross_entropy,
    data_size,
    permutation,
    swap_batchnorm,
    write_checkpoint,
)
from largebatch.recipe import Recipe, Timeline
from largebatch.results import RunFolder
from largebatch.study._looks import Looks
from largebatch.study._stacked import Stack, can_stack
from largebatch.study._stacked_update import StackedUpdate

__all__ = ["STACKED", "is_stacked", "train_stack"]

STACKED = "trained together with other seeds, by batched products"
MOST_WEIGHTS = 100_000  # above, one network fills a core by itself
LOOKS_PER_EPOCH = 20  # rows of the log, as in `fit`


def is_stacked(task: Task, recipe: Recipe) -> bool:
    """Whether runs of this recipe are trained as a stack: small networks of known layers, plain optimisers, one phase."""
    model = train.build_model(task, 0)
    return (
        isinstance(task.train, tuple)
        and can_stack(model)
        and sum(p.numel() for p in model.parameters()) <= MOST_WEIGHTS
        and task.loss is cross_entropy
        and all(metric is accuracy for metric in task.metrics.values())
        and task.train[1].dim() == 1
        and recipe.optimizer in ("sgd", "adam", "adamw")
        and recipe.precision in ("fp32", "fp64")
        and recipe.then is None
        and not recipe.augment
        and not (recipe.clip_norm or recipe.label_smoothing or recipe.sam_rho or recipe.proximal_strength)
    )


@dataclass
class _Member:
    """One seed's run in the stack."""

    seed: int
    folder: RunFolder
    digest: str
    looks: Looks
    history: train.LossHistory = field(default_factory=train.LossHistory)
    rows: list[dict[str, Any]] = field(default_factory=list)
    path_length: float = 0.0
    result: train.Run | None = None


def train_stack(
    task: Task, recipe: Recipe, seeds: Sequence[int], folders: Sequence[str], looks: Sequence[Looks]
) -> None:
    """Train every seed that has not ended and leave its folder as `fit` would.

    Raises:
        ValueError: a recipe that does not fit the task, or a folder with another run.
        RuntimeError: another process holds a folder.
    """
    with ExitStack() as held:
        for folder in sorted(folders):  # in one order, so that two studies never wait for each other
            held.enter_context(RunFolder(Path(folder)).lock())
        runs = [(seed, RunFolder(Path(path)), look) for seed, path, look in zip(seeds, folders, looks, strict=True)]
        # another study may have made some until now
        missing = [run for run in runs if run[1].read("result.json") is None]
        if missing:
            execution, data = train.Execution(device="cpu"), train.data_digests(task)
            models = [train.prepare(task, recipe, execution, seed=seed)[0] for seed, _, _ in missing]
            members = [
                _Member(seed, folder, train.identity(task, recipe, seed, model, data=data), look)
                for (seed, folder, look), model in zip(missing, models, strict=True)
            ]
            _Training(task, recipe, members, models).run()


@dataclass(frozen=True)
class _Step:
    """One update of all networks."""

    update: int
    samples: int  # seen, this update included
    batch_size: int
    epoch: float
    rate: float
    losses: Tensor  # (S,)


@final
class _Training:
    """One stack on its way."""

    def __init__(self, task: Task, recipe: Recipe, members: list[_Member], models: list[nn.Module]):
        self.task, self.recipe, self.members, self.models = task, recipe, members, models
        self.timeline = Timeline(recipe, data_size(task.train))
        self.stack = Stack(models, recipe.ghost_batch_size)
        self.optimizer = StackedUpdate(self.stack.weights, self.stack.others, recipe)
        dtype = self.stack.weights.dtype
        assert isinstance(task.train, tuple)
        self.train = (task.train[0].to(dtype), task.train[1])
        self.start = torch.cat([self.stack.weights, self.stack.others.view(self.stack.size, -1)], dim=1)
        self.trivial = train.trivial_loss(task)
        self.looked_at = {update for member in members for update in member.looks.updates}
        self.log_every = max(1, self.timeline.updates_per_epoch // LOOKS_PER_EPOCH)
        self.losses: list[Tensor] = []  # (S,) of each update of this epoch
        self.hits = torch.zeros(self.stack.size, dtype=torch.int64)
        self.last_row = 0
        self.begun = time.perf_counter()

    def run(self) -> None:
        """All epochs."""
        for member, model in zip(self.members, self.models, strict=True):
            store = train.RunStore(member.folder.path, member.digest, World(), torch.device("cpu"))
            store.open(self.recipe, self.task, member.seed)
            member.folder.cut_back(-1)
            write_checkpoint(member.folder.checkpoints, 0, model.state_dict(), {"observers": {}})
        for update in range(self.timeline.total_updates):
            self._update(update)
            if all(member.result is not None for member in self.members):
                break
        self._finish()

    def _update(self, update: int) -> None:
        timeline, stack = self.timeline, self.stack
        epoch, start, stop = timeline.batch_of(update)
        if start == 0 or update == 0:
            self._order(epoch)
        seen = timeline.samples_before(update)
        rate = timeline.rate(seen)
        chosen = self.orders[:, start:stop]
        inputs, targets = self.train[0][chosen], self.train[1][chosen]
        is_logged = (update + 1) % self.log_every == 0 or update == 0
        before = self._flat() if is_logged else None
        losses, logits = stack.gradient(inputs, targets)
        self.optimizer.step(rate)
        self.losses.append(losses)
        self.hits += (logits.argmax(dim=2) == targets).sum(dim=1)
        samples = seen + stop - start
        step = _Step(update, samples, stop - start, samples / timeline.train_size, rate, losses)
        if before is not None:
            self._log(step, before)
        self._look(step)
        if update + 1 == timeline.total_updates or (update + 1) % timeline.updates_per_epoch == 0:
            self._end_of_epoch(step)
        elif is_logged and not bool(torch.isfinite(losses).all()):
            self._judge(step, epoch=-1)

    def _order(self, epoch: int) -> None:
        """Of the samples in an epoch, for each seed: (S, N)."""
        self.orders = torch.stack([permutation(len(self.train[1]), member.seed, epoch) for member in self.members])

    def _flat(self) -> Tensor:
        """(S, P), a copy."""
        return torch.cat([self.stack.weights, self.stack.others.view(self.stack.size, -1)], dim=1)

    def _log(self, step: _Step, before: Tensor) -> None:
        grads = [self.stack.weights.grad, self.stack.others.grad]
        flat = torch.cat([grad.view(self.stack.size, -1) for grad in grads if grad is not None], dim=1)
        now = self._flat()
        norms = [torch.linalg.vector_norm(rows, dim=1) for rows in (flat, now - before, now - self.start)]
        columns = [step.losses, *norms]
        same = {"kind": "update", "phase": 0, "update": step.update, "epoch": step.epoch, "samples": step.samples,
                "batch_size": step.batch_size, "lr": step.rate}  # fmt: skip
        for member, (loss, gradient_norm, step_norm, distance) in zip(
            self.members, torch.stack(columns, dim=1).tolist(), strict=True
        ):
            if member.result is None:
                member.path_length += step_norm * (step.update + 1 - self.last_row)
                found = {
                    "train_loss": loss,
                    "gradient_norm": gradient_norm,
                    "step_norm": step_norm,
                    "distance": distance,
                }
                member.rows.append(same | found | {"path_length": member.path_length})
        self.last_row = step.update + 1

    def _look(self, step: _Step) -> None:
        if step.update not in self.looked_at:
            return
        for number, member in enumerate(self.members):
            if member.result is None and member.looks.wants(step.update) is not None:
                risk = Risk(self._model(number), self.task.loss, self.task.train)
                view = View(step.update, 0, step.epoch, step.samples, step.batch_size, step.rate, step.losses[number],
                            risk=risk)  # fmt: skip
                member.looks.see(view)

    def _model(self, number: int) -> nn.Module:
        """A network as it stands, with its ghosts."""
        model = train.build_model(self.task, self.members[number].seed).to(self.stack.weights.dtype)
        model.load_state_dict(self.stack.state(number))
        swap_batchnorm(model, self.recipe.ghost_batch_size)
        return model

    def _end_of_epoch(self, step: _Step) -> None:
        """Judge, evaluate, write a row, as `fit` does."""
        epoch, done = self.timeline.epoch_of(step.update), step.update + 1
        going = [member.result is None for member in self.members]
        self._judge(step, epoch=epoch)
        held_out = self._evaluate(self.task.held_out)
        count = step.samples - self.timeline.samples_before(epoch * self.timeline.updates_per_epoch)
        updates = range(done - len(self.losses), done)
        sizes = torch.tensor([stop - start for _, start, stop in map(self.timeline.batch_of, updates)])
        train_loss = ((torch.stack(self.losses).double() * sizes[:, None]).sum(dim=0) / count).tolist()
        same = {"kind": "epoch", "phase": 0, "epoch": epoch, "updates": done, "samples": step.samples,
                "seconds": (time.perf_counter() - self.begun) / len(self.members)}  # fmt: skip
        for number, member in enumerate(self.members):
            if going[number]:
                row = same | {"train_loss": train_loss[number]}
                row |= {f"train_{name}": float(self.hits[number]) / count for name in self.task.metrics}
                member.rows.append(row | {f"held_out_{name}": v for name, v in held_out[number].items()})
        self.losses = []
        self.hits.zero_()

    def _judge(self, step: _Step, *, epoch: int) -> None:
        """End the runs that have diverged; the others go on."""
        done = step.update + 1
        is_last = done == self.timeline.total_updates
        columns = torch.stack(self.losses).double().T.tolist()
        for number, member in enumerate(self.members):
            if member.result is None:
                reason = member.history.judge(
                    columns[number], done - len(self.losses), epoch=epoch, is_last=is_last, trivial=self.trivial
                )
                if reason:
                    self._end(number, "diverged", f"{reason}; {train.ADVICE}", done, step.samples)

    def _finish(self) -> None:
        updates, samples = self.timeline.total_updates, self.timeline.total_samples
        for number, member in enumerate(self.members):
            if member.result is None:
                observers = {"observers": {member.looks.name: member.looks.state_dict()}}
                write_checkpoint(member.folder.checkpoints, samples, self.stack.state(number), observers)
                self._end(number, "finished", "", updates, samples)
        for member in self.members:
            assert member.result is not None
            member.folder.append(member.rows)
            member.folder.write("result.json", member.result.to_json())

    def _end(self, number: int, status: Any, reason: str, updates: int, samples: int) -> None:
        member, seconds = self.members[number], (time.perf_counter() - self.begun) / len(self.members)
        metrics: dict[str, float] = {}
        for split, data in (("train", self.task.train), ("test", self.task.test), ("validation", self.task.validation)):
            if data is not None:
                metrics |= {f"{split}_{name}": value for name, value in self._evaluate(data)[number].items()}
        member.result = train.Run(
            task=self.task.name, recipe=self.recipe.to_json(), seed=member.seed, status=status, reason=reason,
            updates=updates, samples=samples, seconds=seconds, samples_per_second=samples / max(seconds, 1e-9),
            metrics=metrics, folder=str(member.folder.path), notes=(STACKED,),
        )  # fmt: skip

    def _evaluate(self, data: Any) -> list[dict[str, float]]:
        """`{"loss": …, each metric: …}` of each network, over all samples."""
        inputs, targets = data[0].to(self.stack.weights.dtype), data[1]
        logits = self.stack.evaluate(inputs)
        found: list[dict[str, float]] = []
        for one in logits:
            values = {"loss": cross_entropy(one, targets)}
            values |= {name: metric(one, targets) for name, metric in self.task.metrics.items()}
            found.append({name: float(value.double().mean()) for name, value in values.items()})
        return found
