"""The probe: a short training that measures its own noise, then, if asked, branches from its end and a sweep to its loss.

The routes are taken cheapest first, and what each costs is told before it starts; what they say is judged in the room
`probe`. The rate is constant: a rate that falls would change the noise scale under the eyes of whoever measures it. And it
is tuned for so short a training, unless told not to: a rate that is too large keeps the loss up by noise, and then neither
noise scale nor branches mean anything (McCandlish et al. 2018, arXiv 1812.06162, appendix C, on the temperature).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal, final

from largebatch import probe, train
from largebatch.core import Checkpoint, Task, data_size, latest_checkpoint, swap_batchnorm
from largebatch.noise import NoiseEstimate, NoiseScale
from largebatch.recipe import Recipe
from largebatch.results import Column, Result, Table, read_json, refuse, write_json
from largebatch.trials._branches import LOOKS, Branches, branch_batches
from largebatch.trials._descent import constant_rate, descend, examined_part, loss_of
from largebatch.trials._rates import best_rate
from largebatch.trials._sweep import TUNING_SEED, sweep_batches

__all__ = ["ProbeCost", "ProbePlan", "RouteCost", "probe_cost", "run_probe"]

RouteName = Literal["noise scale", "branches", "sweep"]
_TUNING_RUNS = 4  # of a batch in a sweep, about
_LONGEST = 6  # trunks


@final
@dataclass(frozen=True)
class ProbePlan(Result):
    """What to do.

    Args:
        samples: of the training that is watched, the trunk.
        routes: "noise scale" and, of "branches" and "sweep", those wanted.
        batch_sizes: of branches and sweep, ascending.
        branch_batch_sizes: of branches alone, where they differ.
        branch_samples: of each branch.
        branch_seeds, sweep_seeds: how many.
        tune: the trunk's rate, on a seed of its own.
        target: training loss of the sweep; None: that of the end of the trunk.
        longest, period: samples after which a run of the sweep has missed the target, and between two looks at it; None: six
            trunks, and a tenth of one.
        examined: training samples on which losses are taken.
    """

    samples: int
    batch_sizes: tuple[int, ...]
    branch_samples: int
    routes: tuple[RouteName, ...] = ("noise scale",)
    branch_batch_sizes: tuple[int, ...] = ()
    branch_seeds: int = 2
    sweep_seeds: int = 3
    tune: bool = True
    target: float | None = None
    longest: int | None = None
    period: int | None = None
    examined: int = 2048

    @property
    def branch_sizes(self) -> tuple[int, ...]:
        """The batches that branches are long enough for."""
        return tuple(
            size for size in self.branch_batch_sizes or self.batch_sizes if LOOKS * size <= self.branch_samples
        )

    @classmethod
    def of(
        cls,
        task: Task,
        recipe: Recipe,
        *,
        samples: int | None = None,
        batch_sizes: Sequence[int] = (),
        routes: Sequence[RouteName] = ("noise scale",),
        target: float | None = None,
    ) -> "ProbePlan":
        """With what is not given chosen: an epoch, and batches from a quarter to 16 times the recipe's.

        Raises:
            ValueError: numbers out of range, with every mistake.
        """
        size, batch = data_size(task.train), recipe.global_batch_size
        chosen = tuple(batch_sizes) or tuple(b for k in range(-2, 5) if 1 <= (b := int(batch * 2.0**k)) <= size // 4)
        mistakes: list[str] = []
        if samples is not None and samples < 20 * batch:
            mistakes.append(
                f"samples: expected 20 updates or more, {20 * batch}, got {samples}; an interval needs some looks"
            )
        if len(chosen) < 3 and set(routes) - {"noise scale"}:
            mistakes.append(f"batch_sizes: expected three or more, got {list(chosen)}; two leave no interval")
        refuse("probe", mistakes)
        return cls(size if samples is None else samples, chosen, 32 * batch, tuple(routes), target=target)


@final
@dataclass(frozen=True)
class RouteCost(Result):
    """What a route costs beforehand: samples to train on, at most, and the time at the speed of a first pass."""

    route: str
    samples: float
    seconds: float


@final
@dataclass(frozen=True)
class ProbeCost(Result):
    """What a probe costs beforehand."""

    task: str
    routes: tuple[RouteCost, ...]

    def text(self) -> str:
        """For a terminal."""
        rows = [[row.route, row.samples, row.seconds / 60] for row in self.routes]
        columns = ["route", Column("samples, at most"), Column("about", "min")]
        return f"{self.task}: what each route costs\n{Table(columns, rows).text()}\n"


def probe_cost(task: Task, recipe: Recipe, plan: ProbePlan) -> ProbeCost:
    """Samples and time, before anything is trained."""
    expected = train.preview(task, recipe)
    each = expected.expected_seconds / expected.total_samples
    branches = len(plan.branch_sizes) * plan.branch_seeds * plan.branch_samples
    sweep = len(plan.batch_sizes) * (_TUNING_RUNS + plan.sweep_seeds) * (plan.longest or _LONGEST * plan.samples)
    tuning = _TUNING_RUNS * plan.samples if plan.tune else 0
    samples = {"noise scale": tuning + plan.samples, "branches": branches, "sweep": sweep}
    return ProbeCost(task.name, tuple(RouteCost(r, samples[r], samples[r] * each) for r in plan.routes))


def run_probe(task: Task, recipe: Recipe, plan: ProbePlan, *, out: str | Path, seed: int = 0) -> probe.CriticalBatch:
    """Measure by every route of the plan, and judge.

    Args:
        recipe: at the batch of the trunk; its rate is where tuning begins.
        out: folder of the trunk, of the sweep and of the answer; what is there is not done again.
    """
    folder = Path(out)
    tuned, spent = _tuned(task, recipe, plan, folder) if plan.tune else (recipe, 0)
    noise, end = _trunk(task, tuned, plan, folder / "trunk", seed)
    found = noise.estimate(last=0.5)  # the trunk's beginning is another network
    routes = [probe.by_noise_scale(found, spent + plan.samples)]
    if "branches" in plan.routes:
        branches = _branches(task, tuned, plan, folder / "branches.json", end=end, noise=found)
        routes.append(
            probe.by_branches(
                branches.start_loss,
                branches.paths(),
                cost_samples=spent + plan.samples + branches.cost_samples,
            )
        )
    if "sweep" in plan.routes:
        sweep = sweep_batches(
            task, recipe, batch_sizes=plan.batch_sizes, target=_target(task, recipe, plan, end),
            longest=plan.longest or _LONGEST * plan.samples, period=plan.period or max(1, plan.samples // 10),
            seeds=range(1, plan.sweep_seeds + 1), examined=plan.examined,
            out=folder / "sweep",
        )  # fmt: skip
        routes.append(probe.by_sweep(sweep.reached(), sweep.missed(), sweep.periods(), cost_samples=sweep.cost_samples))
    judged = probe.critical_batch_size(routes, found)
    write_json(folder / "probe.json", judged.to_json())
    return judged


def _tuned(task: Task, recipe: Recipe, plan: ProbePlan, folder: Path) -> tuple[Recipe, int]:
    """The recipe at the rate with the least loss at the end of a trunk, and the samples that it took to find it."""
    kept = folder / "rate.json"
    if kept.exists():
        found = read_json(kept)
        return recipe.replace(lr=found["lr"]), int(found["samples"])
    data = examined_part(task, plan.examined)
    spent: list[int] = []

    def cost(lr: float, _: float) -> float:
        rows = descend(
            task, recipe, batch_size=recipe.global_batch_size, lr=lr, longest=plan.samples, seed=TUNING_SEED, start=None,
            examined=data, period=max(1, plan.samples // 16),
        )  # fmt: skip
        spent.append(rows[-1][0])
        late = [loss for seen, loss in rows if 4 * seen > 3 * plan.samples]
        return fmean(late) if late else math.inf

    lr = best_rate(cost, recipe.lr)
    write_json(kept, {"lr": lr, "samples": sum(spent)})
    return recipe.replace(lr=lr), sum(spent)


def _trunk(task: Task, recipe: Recipe, plan: ProbePlan, folder: Path, seed: int) -> tuple[NoiseScale, Checkpoint]:
    """Train it, or find it trained; what was measured is in its checkpoint."""
    adam = recipe.optimizer in ("adam", "adamw", "lamb")
    noise = NoiseScale(every=1, parts=8, preconditioned=adam, train_size=data_size(task.train))
    constant = constant_rate(recipe, recipe.global_batch_size, recipe.lr, plan.samples)
    run = train.fit(task, constant, seed=seed, out=folder, observers=[noise])
    if run.status != "finished":
        raise RuntimeError(f"probe: expected the watched training to finish, it {run.status}: {run.reason}")
    end, damaged = latest_checkpoint(folder / "checkpoints")
    if end is None:
        raise RuntimeError(f"{folder}: expected a checkpoint, got none that is whole: {'; '.join(damaged)}; delete it")
    noise.load_state_dict(end.training_state()["observers"][noise.name])
    return noise, end


def _branches(
    task: Task, recipe: Recipe, plan: ProbePlan, kept: Path, *, end: Checkpoint, noise: NoiseEstimate
) -> Branches:
    """Train them, or find them trained."""
    if kept.exists():
        return Branches.from_json(read_json(kept))
    branches = branch_batches(
        task, recipe, end, batch_sizes=plan.branch_sizes, samples=plan.branch_samples,
        seeds=range(1, plan.branch_seeds + 1), rate=_rule(recipe, noise), examined=plan.examined,
    )  # fmt: skip
    write_json(kept, branches.to_json())
    return branches


def _rule(recipe: Recipe, noise: NoiseEstimate) -> Callable[[int], float] | None:
    """ε(B) ∝ 1/(1 + B_noise/B)^a, McCandlish et al. 2018, with the noise scale that was measured; a is 1/2 for Adam.

    The linear rule alone sends large branches off: it has no largest rate. None, the recipe's rule, without a noise scale.
    """
    if not noise.is_known:
        return None
    own, scale = recipe.global_batch_size, noise.noise_scale.value
    exponent = 1.0 if recipe.optimizer == "sgd" else 0.5
    return lambda size: recipe.lr * ((1 + scale / own) / (1 + scale / size)) ** exponent


def _target(task: Task, recipe: Recipe, plan: ProbePlan, end: Checkpoint) -> float:
    if plan.target is not None:
        return plan.target
    model = train.build_model(task, 0)
    model.load_state_dict(end.model_state())
    swap_batchnorm(model, recipe.ghost_batch_size)
    return loss_of(model, task, examined_part(task, plan.examined))
