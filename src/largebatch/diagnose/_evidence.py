"""What hypotheses are judged by: tables of plain numbers about two groups of runs. No torch: files are enough.

A comparison is the difference or the ratio of one number per run between the groups, with its 95 % t-interval over seeds:
paired where at least three seeds are on both sides, Welch's otherwise. The intervals are one by one: nothing corrects for
there being six hypotheses.

The gap is the test error of the large batch minus that of the small one. A cause that is itself an error (train error,
what early stopping or new statistics would win back) *explains* a gap if it makes up a good part of it, so what is judged is
cause − share · gap, in one interval that holds the uncertainty of both. Where there is no gap a cause can only be described,
and is judged by its own size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, geometric_mean
from typing import Any, Literal

from largebatch.recipe import Recipe
from largebatch.results import (
    FEWEST_SEEDS,
    Estimate,
    Result,
    mean_interval,
    paired_difference,
    paired_ratio,
    welch_difference,
    welch_ratio,
)

__all__ = ["Decision", "Evidence", "Row", "RunRecord", "Verdict", "along", "decide"]

GOOD_PART = 0.25  # of the gap; our choice: what makes up less than a quarter of it does not explain it
SMALL_ERROR = {"accuracy": 0.5, "loss": 0.02}  # where there is no gap; our choice, in points and in units of the loss

Decision = Literal["supported", "contradicted", "undecided"]

Read = Callable[["RunRecord"], float | None]
"""One number of a run; None where it has none."""

Compare = Callable[[list[float], list[float]], Estimate]


@dataclass(frozen=True)
class RunRecord(Result):
    """A run as its folder tells it.

    Args:
        name: of the folder, as it was given.
        task: how `tasks.find` finds the task again.
        digest: the run's identity.
        status: "finished" or "diverged"; `reason` says at which step.
        metrics: at the end, with running statistics: train_loss, test_loss, train_accuracy, ….
        steps: rows of the log at updates: update, samples, lr, train_loss, gradient_norm, distance ‖x − x₀‖, path_length.
        epochs: rows at ends of epochs: samples, train_loss (while training), held_out_loss, held_out_accuracy, ….
        curvature: rows of a `LambdaMax` observer, where one looked on: update, lambda_max, sharpness_times_lr.
    """

    name: str
    task: str
    digest: str
    seed: int
    status: str
    reason: str
    recipe: dict[str, Any]
    updates: int
    samples: int
    metrics: dict[str, float]
    steps: tuple[dict[str, float], ...] = ()
    epochs: tuple[dict[str, float], ...] = ()
    curvature: tuple[dict[str, float], ...] = ()

    @property
    def settings(self) -> Recipe:
        """The recipe."""
        return Recipe.from_json(self.recipe)


@dataclass(frozen=True)
class Row(Result):
    """One measurement of one run, as `measurements.json` keeps it.

    Args:
        name: what was measured, with the options that are not defaults.
        run, digest: of which run.
        batch_norm: "running", "batch", "reestimated", or "none" where the model has none.
        samples: on which.
        passes, seconds: its cost, shared equally among what was measured together.
        details: further numbers by name.
    """

    name: str
    run: str
    digest: str
    value: float
    stderr: float
    batch_norm: str
    samples: int
    passes: float
    seconds: float
    details: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Verdict(Result):
    """What the evidence says about one hypothesis.

    Args:
        verdict: "supported" where the whole interval is beyond what the hypothesis needs, "contradicted" where the whole
            interval falls short of it, else "undecided".
        effect, low, high: with its 95 % interval; NaN where there is none.
        n: seeds it rests on.
        unit: of the effect.
        evidence: one sentence.
        advice: one sentence: what to try next.
    """

    name: str
    verdict: Decision
    effect: float
    low: float
    high: float
    n: int
    unit: str
    evidence: str
    advice: str

    @property
    def estimate(self) -> Estimate:
        """The effect with its interval."""
        return Estimate(self.effect, math.nan, self.low, self.high, self.n, self.unit)


@dataclass(frozen=True)
class Evidence(Result):
    """Two groups of runs of one task, and all that was measured of them.

    Args:
        small, large: by batch size; each seed once in a group.
    """

    small: tuple[RunRecord, ...]
    large: tuple[RunRecord, ...]
    rows: tuple[Row, ...] = ()

    def measured(self, name: str, batch_norm: str | None = None) -> Read:
        """Reads one measurement of a run; "none" stands for every mode of a model without batch norm."""
        modes = None if batch_norm is None else (batch_norm, "none")
        found = {
            row.digest: row.value for row in self.rows if row.name == name and (not modes or row.batch_norm in modes)
        }
        return lambda run: found.get(run.digest)

    def difference(self, read: Read, unit: str = "") -> Estimate:
        """Large − small."""
        return self._compare(
            read,
            lambda a, b: paired_difference(a, b, unit=unit),
            lambda a, b: welch_difference(a, b, unit=unit),
            lambda a, b: fmean(a) - fmean(b),
            unit,
        )

    def ratio(self, read: Read) -> Estimate:
        """Large ÷ small, of positive numbers; others count as missing."""

        def positive(run: RunRecord) -> float | None:
            value = read(run)
            return value if value is not None and value > 0 else None

        return self._compare(positive, paired_ratio, welch_ratio, lambda a, b: geometric_mean(a) / geometric_mean(b))

    def mean(self, side: Literal["small", "large"], read: Read, unit: str = "") -> Estimate:
        """Over the seeds of one group."""
        values = list(_by_seed(self.small if side == "small" else self.large, read).values())
        if len(values) >= FEWEST_SEEDS:
            return mean_interval(values, unit=unit)
        return _missing(fmean(values) if values else math.nan, len(values), unit)

    @property
    def metric(self) -> Literal["accuracy", "loss"]:
        """What the gap is one of: the accuracy, or the loss where some run has none."""
        return "accuracy" if all("test_accuracy" in run.metrics for run in (*self.small, *self.large)) else "loss"

    @property
    def unit(self) -> str:
        """Of errors: percentage points, or those of the loss."""
        return "points" if self.metric == "accuracy" else ""

    def error(self, value: float) -> float:
        """From accuracy, a share, to error in points; a loss stays."""
        return 100 * (1 - value) if self.metric == "accuracy" else value

    def error_at_end(self, split: Literal["train", "test"], batch_norm: str = "running") -> Read:
        """Reads the final error of a run: with running statistics from its result, else as it was measured."""
        name = f"{split}_{self.metric}"
        measured = self.measured(name, batch_norm)

        def read(run: RunRecord) -> float | None:
            value = run.metrics.get(name) if batch_norm == "running" else measured(run)
            return None if value is None else self.error(value)

        return read

    @property
    def gap(self) -> Estimate:
        """Test error, large − small."""
        return self.difference(self.error_at_end("test"), self.unit)

    @property
    def has_gap(self) -> bool:
        """Whether the large batch is worse, with the whole interval."""
        return self.gap.low > 0

    def explains(self, read: Read) -> tuple[Estimate, Decision]:
        """A cause in units of the error, large − small, and whether it makes up a good part of the gap."""
        cause = self.difference(read, self.unit)
        if not self.has_gap:
            return cause, decide(cause, SMALL_ERROR[self.metric])
        error = self.error_at_end("test")

        def excess(run: RunRecord) -> float | None:
            value, total = read(run), error(run)
            return None if value is None or total is None else value - GOOD_PART * total

        return cause, decide(self.difference(excess), 0.0)

    def _compare(
        self, read: Read, paired: Compare, unpaired: Compare, plain: Callable[[list[float], list[float]], float],
        unit: str = "",
    ) -> Estimate:  # fmt: skip
        small, large = _by_seed(self.small, read), _by_seed(self.large, read)
        shared = sorted(small.keys() & large.keys())
        if len(shared) >= FEWEST_SEEDS:
            return paired([large[seed] for seed in shared], [small[seed] for seed in shared])
        n, values = min(len(small), len(large)), (list(large.values()), list(small.values()))
        if n >= FEWEST_SEEDS:
            return unpaired(*values)
        return _missing(plain(*values) if n else math.nan, n, unit)


def along(rows: Sequence[dict[str, float]], clock: str, name: str, at: float) -> float | None:
    """A logged figure at a moment between two rows, by linear interpolation; None outside of the rows.

    Args:
        clock: the column that counts, such as "samples" or "update".
        at: in its unit.
    """
    points = [(row[clock], row[name]) for row in rows if name in row]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= at <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (at - x0) / (x1 - x0)
    return points[0][1] if len(points) == 1 and points[0][0] == at else None


def decide(estimate: Estimate, threshold: float) -> Decision:
    """Whether an effect is beyond a threshold: with its whole interval, or with none of it."""
    if estimate.low > threshold:
        return "supported"
    return "contradicted" if estimate.high < threshold else "undecided"


def _by_seed(runs: Sequence[RunRecord], read: Read) -> dict[int, float]:
    """Of the runs that ended well: a diverged run is told of apart, it has no place in a mean."""
    found = {run.seed: read(run) for run in runs if run.status == "finished"}
    return {seed: value for seed, value in found.items() if value is not None and math.isfinite(value)}


def _missing(value: float, n: int, unit: str) -> Estimate:
    note = "not measured" if n == 0 else f"no interval from {n} seed(s): run at least {FEWEST_SEEDS}"
    return Estimate(value, math.nan, math.nan, math.nan, n, unit, note=note)
