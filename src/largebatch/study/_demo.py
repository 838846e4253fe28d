"""The demo: what a large batch costs on real data, and what wins it back, in a minute.

Four recipes on `digits/mlp` (1,437 training images), the comparison of Goyal et al. 2017 (arXiv 1706.02677), table 1, at
equal epochs: small batch, large batch with nothing changed, linear rule, linear rule with gradual warmup.

How network, batches and epochs were chosen: measured with 5 seeds at rates 0.02–0.1, batches 256 and 512, and 10 and 20
epochs (docs/LOG.md, 2026-11-23). Rate 0.05 is in the middle of the range in which batch 16 gives 97–98 %. At batch
256 the linear rule closes the gap whole, and there is nothing to see of warmup; at 512 (3 updates an epoch) and rates of
0.07 and more it diverges. 512 at 0.05 lies between, where each step of the recipe shows.
"""

import multiprocessing
import os
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from tqdm import tqdm

from largebatch.recipe import Recipe
from largebatch.results import Cell, Column, Estimate, Result, Table, mean_interval, paired_difference

__all__ = ["DemoResult", "DemoRow", "demo"]

TASK = "digits/mlp"
SMALL = Recipe(16, lr=0.05, duration="20ep", ghost_batch_size=16)
LARGE_BATCH = 512
CELLS = {
    "small batch": SMALL,
    "large batch, nothing changed": SMALL.at(LARGE_BATCH, rule="none"),
    "  + linear rule": SMALL.at(LARGE_BATCH, warmup=None),
    "  + linear rule and gradual warmup": SMALL.at(LARGE_BATCH),
}


@dataclass(frozen=True)
class DemoRow(Result):
    """One recipe over all seeds."""

    recipe: str
    global_batch_size: int
    test_accuracy_percent: Estimate | None  # None where no run gave a finite one
    gap_points: Estimate | None  # paired with the small batch; None for itself, and where it cannot be told
    train_loss: Estimate | None
    updates: int
    seconds: float  # of one run, mean over seeds
    diverged: int  # how many of the runs


@dataclass(frozen=True)
class DemoResult(Result):
    """The table of the demo."""

    task: str
    seeds: int
    rows: tuple[DemoRow, ...]

    def text(self) -> str:
        """The table and what it says, for a terminal."""
        columns = [
            "recipe",
            Column("batch"),
            Column("test accuracy", "%"),
            Column("gap", "points"),
            Column("train loss"),
            Column("updates"),
            Column("one run", "s", ".1f"),
        ]
        cells: list[list[Cell]] = [
            [
                row.recipe,
                row.global_batch_size,
                row.test_accuracy_percent or f"diverged ({row.diverged} of {self.seeds})",
                _gap(row.gap_points),
                row.train_loss,
                row.updates,
                row.seconds,
            ]
            for row in self.rows
        ]
        reading = "gap: small batch minus this one, paired by seed, with its 95 % interval over seeds."
        return f"{self.task}, {self.seeds} seed(s)\n{Table(columns, cells).text()}\n{reading}\n{self._sentence()}\n"

    def _sentence(self) -> str:
        plain, best = self.rows[1].gap_points, self.rows[-1].gap_points
        if plain is None or best is None:
            return "Too few finite runs to compare: use at least 3 seeds."
        if not _excludes_zero(plain):
            return "No gap here: with nothing changed, the large batch is not told apart from the small one."
        rest = f"{best.value:.1f} points remain" if _excludes_zero(best) else "what remains is not told apart from 0"
        return (
            f"With nothing changed the large batch costs {plain.value:.1f} points; with linear rule and warmup {rest}, at "
            f"{self.rows[0].updates // self.rows[-1].updates} times fewer updates."
        )


def demo(*, seeds: int = 5, executor: Executor | None = None) -> DemoResult:
    """Train every cell with every seed and compare.

    Args:
        seeds: runs of each recipe.
        executor: where to run; None starts a process of one thread for each core.

    Raises:
        ValueError: fewer than one seed.
    """
    if seeds < 1:
        raise ValueError(f"seeds: expected at least 1, and 3 to compare, got {seeds}")
    if executor is not None:
        return _demo(seeds, executor)
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"), initializer=_one_thread) as own:
        return _demo(seeds, own)


def _demo(seeds: int, executor: Executor) -> DemoResult:
    # The long runs first, so that no core waits for one of them at the end.
    futures = {executor.submit(_train, name, seed): (name, seed) for name in CELLS for seed in range(seeds)}
    found: dict[tuple[str, int], dict[str, float]] = {}
    finished = as_completed(futures)
    for future in tqdm(finished, total=len(futures), desc="demo", unit=" runs", disable=None, file=sys.stderr):
        found[futures[future]] = future.result()
    reference = [found["small batch", seed] for seed in range(seeds)]
    rows = tuple(_row(name, [found[name, seed] for seed in range(seeds)], reference) for name in CELLS)
    return DemoResult(TASK, seeds, rows)


def _train(name: str, seed: int) -> dict[str, float]:
    from largebatch import tasks, train

    run = train.fit(tasks.get(TASK), CELLS[name], seed=seed, progress=False)
    return {
        "accuracy": 100 * run.metrics["test_accuracy"],
        "loss": run.metrics["train_loss"],
        "updates": run.updates,
        "seconds": run.seconds,
        "diverged": run.status == "diverged",
    }


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _row(name: str, runs: list[dict[str, float]], reference: list[dict[str, float]]) -> DemoRow:
    def over_seeds(rows: list[dict[str, float]], key: str) -> list[float]:
        return [row[key] for row in rows]

    diverged = int(sum(over_seeds(runs, "diverged")))
    comparable = not diverged and not sum(over_seeds(reference, "diverged"))
    is_paired = comparable and name != "small batch" and len(runs) >= 3
    gap = paired_difference(over_seeds(reference, "accuracy"), over_seeds(runs, "accuracy")) if is_paired else None
    return DemoRow(
        recipe=name,
        global_batch_size=CELLS[name].global_batch_size,
        test_accuracy_percent=None if diverged else mean_interval(over_seeds(runs, "accuracy")),
        gap_points=gap,
        train_loss=None if diverged else mean_interval(over_seeds(runs, "loss")),
        updates=int(max(over_seeds(runs, "updates"))),
        seconds=sum(over_seeds(runs, "seconds")) / len(runs),
        diverged=diverged,
    )


def _excludes_zero(gap: Estimate) -> bool:
    return gap.low > 0 or gap.high < 0


def _gap(gap: Estimate | None) -> Cell:
    if gap is None:
        return None
    return str(gap) if _excludes_zero(gap) else f"no gap: {gap}"
