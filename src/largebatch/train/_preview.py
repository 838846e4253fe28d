"""What a run will do and cost, before it starts: changes, updates, warnings, and time and memory measured on one pass."""

import os
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from largebatch.core import Loader, Task, cut, data_size, rank_share, swap_batchnorm, total, weigh
from largebatch.optimizers import build_optimizer
from largebatch.recipe import Change, Recipe, Timeline
from largebatch.train._check import prepare
from largebatch.train._execution import Execution, autocast_of, dtype_of

__all__ = ["Preview", "preview"]

PROBE_SAMPLES = 256  # enough to fill the cores, little enough to take a moment


@dataclass(frozen=True)
class Preview:
    """What to expect of a run; time and memory are those of one worker."""

    task: str
    workers: int
    global_batch_size: int
    updates_per_epoch: int
    total_updates: int
    total_samples: int
    parameters: int
    micro_batch_size: int
    expected_seconds: float  # training alone: evaluation adds about a third of a pass each time
    expected_bytes: int  # weights, gradients, optimiser, saved activations, resident data
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return vars(self) | {"changes": [vars(change) for change in self.changes], "warnings": list(self.warnings)}


def preview(
    task: Task, recipe: Recipe, *, workers: int = 1, execution: Execution | None = None, seed: int = 0
) -> Preview:
    """Measure one pass forward and backward, and add up.

    Raises:
        ValueError: as `fit` would.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    execution = Execution() if execution is None else execution
    train_size = data_size(task.train)
    model, device = prepare(task, recipe, execution, seed=seed)
    timeline = Timeline(recipe, train_size)
    start, stop = rank_share(recipe.global_batch_size, recipe.ghost_batch_size, 0, workers)
    micro = max(b - a for a, b in cut(stop - start, recipe.ghost_batch_size, execution.micro_batch_size))
    with torch.random.fork_rng(devices=[]):
        swap_batchnorm(model, recipe.ghost_batch_size, commit="update")
        pass_seconds, pass_bytes, samples = _measure_pass(task, recipe, model, device, micro)
        step_seconds = _measure_step(recipe, model)
    parameters = sum(p.numel() for p in model.parameters())
    item = torch.finfo(dtype_of(recipe)).bits // 8
    copies = 2 + {"sgd": 1, "lars": 1, "adam": 2, "adamw": 2, "lamb": 2}[recipe.optimizer]
    timelines = [Timeline(phase, train_size) for phase in _phases(recipe)]
    updates = sum(each.total_updates for each in timelines)
    # One worker's samples through the network, forward and backward.
    passed = sum(each.total_samples * _passes(each.recipe) for each in timelines) / workers
    # Workers on one machine share its cores; on a GPU each has its own.
    slowdown = 1.0 if device.type == "cuda" else min(workers, os.cpu_count() or 1)
    return Preview(
        task=task.name,
        workers=workers,
        global_batch_size=recipe.global_batch_size,
        updates_per_epoch=timeline.updates_per_epoch,
        total_updates=updates,
        total_samples=sum(each.total_samples for each in timelines),
        parameters=parameters,
        micro_batch_size=micro,
        expected_seconds=passed * slowdown * pass_seconds / samples + updates * step_seconds,
        expected_bytes=copies * parameters * item + pass_bytes * micro // samples + _resident_bytes(task, item),
        changes=recipe.changes,
        warnings=recipe.warnings(train_size),
    )


def _phases(recipe: Recipe) -> list[Recipe]:
    return [recipe, *(_phases(recipe.then.recipe) if recipe.then else [])]


def _passes(recipe: Recipe) -> int:
    """Gradients of one update: SAM takes two, a conservative step one for each inner step."""
    if recipe.sam_rho > 0:
        return 2
    return recipe.proximal_steps if recipe.proximal_strength > 0 else 1


def _measure_pass(
    task: Task, recipe: Recipe, model: torch.nn.Module, device: torch.device, micro: int
) -> tuple[float, int, int]:
    """`(seconds, bytes saved for backward, samples)` of one pass, the fastest of three."""
    loader = Loader(task.train, device, dtype=dtype_of(recipe))
    samples = min(micro, PROBE_SAMPLES, data_size(task.train))
    inputs, targets = next(loader.slices(0, samples, samples))
    autocast = autocast_of(recipe, device)
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.nbytes  # of the tensor: its storage may be the whole data set's
        return tensor

    model.train()
    fastest = float("inf")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        for _ in range(3):
            saved.clear()
            begun = time.perf_counter()
            with autocast():
                loss, _ = total(*weigh(task.loss(model(inputs), targets), samples))
            loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            fastest = min(fastest, time.perf_counter() - begun)
    weights = {p.data_ptr() for p in model.parameters()}
    return fastest, sum(size for address, size in saved.items() if address not in weights), samples


def _measure_step(recipe: Recipe, model: torch.nn.Module) -> float:
    optimizer = build_optimizer(model, recipe)
    fastest = float("inf")
    for _ in range(3):  # the first makes the state
        begun = time.perf_counter()
        optimizer.step(_no_gradient)
        fastest = min(fastest, time.perf_counter() - begun)
    return fastest


def _no_gradient(first: bool = True) -> float:
    """Leaves the gradients of the pass that was measured: only the step is timed."""
    return 0.0


def _resident_bytes(task: Task, item: int) -> int:
    splits = [data for data in (task.train, task.test, task.validation) if isinstance(data, tuple)]
    tensors = [tensor for data in splits for tensor in data]
    return sum(t.numel() * (item if t.is_floating_point() else t.element_size()) for t in tensors)
