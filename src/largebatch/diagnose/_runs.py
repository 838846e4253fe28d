"""From run folders to two groups that may be compared: read, checked against one another, their models rebuilt.

What makes a comparison meaningless is refused: runs of different tasks or models, a seed that counts twice, groups that
are not one recipe each. Runs that share a seed must share their initial weights. That the task is still the one they were
trained on is seen where it is measured: the test loss has to come out as it was recorded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from largebatch.core import Task, latest_checkpoint, read_checkpoint
from largebatch.diagnose._evidence import RunRecord
from largebatch.recipe import Recipe
from largebatch.results import RunFolder
from largebatch.tasks import find

__all__ = ["Groups", "StoredRun", "find_task", "read_groups", "read_run"]


@final
@dataclass(frozen=True)
class StoredRun:
    """A run with its folder.

    Args:
        origin: where a task of the user's own was defined; "" for a built-in one.
    """

    record: RunRecord
    path: Path
    origin: str

    @property
    def finds_task(self) -> str:
        """What `tasks.find` takes."""
        return self.origin or self.record.task

    def checkpoints(self) -> list[int]:
        """Samples seen at each, from the start on."""
        folder = RunFolder(self.path).checkpoints
        return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())

    def state(self, samples: int | None = None) -> dict[str, Tensor]:
        """The state_dict at a checkpoint; None: the newest.

        Raises:
            ValueError: it is missing or damaged.
        """
        folder = RunFolder(self.path).checkpoints
        if samples is not None:
            return read_checkpoint(folder / str(samples)).model_state()
        newest, damaged = latest_checkpoint(folder)
        if newest is None:
            reasons = "; ".join(damaged) or "there is none"
            raise ValueError(f"{self.path}: expected a checkpoint, but {reasons}: train this run again")
        return newest.model_state()

    def model(self, task: Task, samples: int | None = None) -> nn.Module:
        """The model at a checkpoint, in the dtype it was trained in; None: the newest.

        Raises:
            ValueError: the checkpoint does not fit the task's model.
        """
        state = self.state(samples)
        with torch.random.fork_rng(devices=[]):
            model = task.model()
        model.to(next(tensor.dtype for tensor in state.values() if tensor.is_floating_point()))
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"{self.path}: expected weights of the model of task {task.name}, but {' '.join(str(error).split())}: give "
                "the task this run was trained on, with --task"
            ) from error
        return model


@final
@dataclass(frozen=True)
class Groups:
    """The runs of both batch sizes that have ended, and remarks on those that were left out."""

    small: tuple[StoredRun, ...]
    large: tuple[StoredRun, ...]
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> list[StoredRun]:
        """All whose weights can be measured."""
        return [run for run in (*self.small, *self.large) if run.record.status == "finished"]

    def pairs(self) -> list[tuple[StoredRun, StoredRun]]:
        """(small, large) of equal seed, both finished, by seed."""
        small, large = (
            {run.record.seed: run for run in group if run.record.status == "finished"}
            for group in (self.small, self.large)
        )
        return [(small[seed], large[seed]) for seed in sorted(small.keys() & large.keys())]


def read_run(path: str | Path) -> StoredRun | None:
    """A run that has ended, or None where training was interrupted.

    Raises:
        ValueError: no run folder.
    """
    folder = RunFolder(Path(path))
    identified = folder.read("recipe.json")
    if identified is None:
        raise ValueError(
            f"{path}: expected a run folder, as `largebatch train` or train.fit(…, out=…) leave it, found no recipe.json"
        )
    result = folder.read("result.json")
    if result is None:
        return None
    steps, epochs = (_rows(folder, kind) for kind in ("update", "epoch"))
    record = RunRecord(
        name=str(path), task=identified["task"], digest=identified["digest"], seed=identified["seed"],
        status=result["status"], reason=result["reason"], recipe=identified["recipe"], updates=result["updates"],
        samples=result["samples"], metrics=result["metrics"], steps=tuple(steps), epochs=tuple(epochs),
        curvature=tuple(_curvature(folder)),
    )  # fmt: skip
    return StoredRun(record, Path(path), identified.get("origin", ""))


def read_groups(small: Sequence[str | Path], large: Sequence[str | Path]) -> Groups:
    """Both groups, checked.

    Raises:
        ValueError: with every reason why they cannot be compared.
    """
    notes: list[str] = []
    groups: list[tuple[StoredRun, ...]] = []
    for paths in (small, large):
        found = [(path, read_run(path)) for path in paths]
        unfinished = [path for path, run in found if run is None]
        notes += [f"{path}: left out, it has not ended; the same train command continues it" for path in unfinished]
        groups.append(tuple(run for _, run in found if run is not None))
    mistakes = list(_mistakes(*groups))
    if mistakes:
        raise ValueError("\n  ".join(["runs that cannot be compared:", *mistakes, *notes]))
    return Groups(groups[0], groups[1], tuple(notes))


def find_task(run: StoredRun) -> Task:
    """The task of a run, by what the run recorded.

    Raises:
        ValueError: it is not to be found, or it is a file that the run's folder alone vouches for.
    """
    file = Path(run.origin.rpartition(":")[0]).resolve() if run.origin else None
    is_ours = file is None or (file.is_relative_to(Path.cwd()) and not file.is_relative_to(run.path.resolve()))
    if not is_ours:  # a folder that came from elsewhere could name any code
        raise ValueError(
            f"{run.path}: its task is defined in {file}, outside the working directory, and finding it would run that "
            f"file: if you trust it, say so with --task {run.origin}"
        )
    try:
        return find(run.finds_task)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"{run.path}: cannot find the task it was trained on: {error}; or name it, as --task my_task.py:task"
        ) from error


def _mistakes(small: tuple[StoredRun, ...], large: tuple[StoredRun, ...]) -> Iterator[str]:
    for name, group in (("small", small), ("large", large)):
        if not group:
            yield f"{name}: expected at least one run that has ended, and 3 seeds for an interval, got none"
        yield from _mistakes_within(name, group)
    if not small or not large:
        return
    tasks = {run.record.task: run for run in (*small, *large)}
    if len(tasks) > 1:
        yield f"expected runs of one task, got {' and '.join(f'{task} ({run.path})' for task, run in tasks.items())}"
        return
    sizes = [group[0].record.settings.global_batch_size for group in (small, large)]
    if sizes[0] > sizes[1]:
        yield f"expected the larger batch behind --against, got {sizes[1]} there and {sizes[0]} before it: swap them"
    yield from _mistakes_between(small, large)


def _mistakes_within(name: str, group: tuple[StoredRun, ...]) -> Iterator[str]:
    seeds: dict[int, StoredRun] = {}
    for run in group:
        twin = seeds.setdefault(run.record.seed, run)
        if twin is not run:
            yield f"{name}: seed {run.record.seed} counts once, got {twin.path} and {run.path}: leave one out"
    recipes = {_without_history(run.record.settings): run for run in group}
    if len(recipes) > 1:
        different = " and ".join(str(run.path) for run in recipes.values())
        yield f"{name}: expected runs that differ in the seed alone, but {different} have different recipes: compare apart"


def _mistakes_between(small: tuple[StoredRun, ...], large: tuple[StoredRun, ...]) -> Iterator[str]:
    by_seed = {run.record.seed: run for run in small}
    for run in large:
        twin = by_seed.get(run.record.seed)
        if twin is not None and 0 in run.checkpoints() and 0 in twin.checkpoints():
            ours, theirs = run.state(0), twin.state(0)
            if ours.keys() != theirs.keys() or any(not torch.equal(ours[name], theirs[name]) for name in ours):
                yield (
                    f"{twin.path}, {run.path}: expected equal initial weights from seed {run.record.seed}, they differ: "
                    "these are runs of different models; compare runs of one model"
                )


def _without_history(recipe: Recipe) -> str:
    return str(recipe.to_json(with_changes=False))


def _rows(folder: RunFolder, kind: str) -> list[dict[str, float]]:
    rows = [row for row in folder.log() if row["kind"] == kind]
    return [{name: float(value) for name, value in row.items() if name != "kind"} for row in rows]


def _curvature(folder: RunFolder) -> list[dict[str, Any]]:
    """What a `LambdaMax` observer had seen by the newest checkpoint."""
    newest, _ = latest_checkpoint(folder.checkpoints)
    observers = {} if newest is None else newest.training_state()["observers"]
    return observers.get("lambda_max", {}).get("rows", [])
