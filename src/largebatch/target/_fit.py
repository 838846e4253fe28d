"""The hyperbola fitted to the samples (or epochs) that seeds needed at several batches.

Model, on the log scale: ln E_ij = ln E(B_i) + u_i + e_ij. E(B) = E_min·(1 + B/B_crit) (McCandlish et al. 2018, arXiv
1812.06162); e_ij ~ Normal(0, σ²) is seed noise, known through evaluation periods only (`_seed_noise`); u_i ~ Normal(0, τ²)
is what each batch has to itself, for recipes are tuned batch by batch. Seeds do not repeat u_i, so batches are what is
counted: m batches leave m − 2 degrees of freedom, however many seeds.

Fit: the batch means have variances v_i = τ² + s_i². τ² makes the weighted residuals Q = Σ r_i²/v_i equal m − 2 (Paule and
Mandel 1982, J. Res. NBS 87:377), and is 0 where they are less. Intervals are profiles (`_profile`);
whether the curve may be used is judged in `_verdict`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import numpy as np

from largebatch.results import Cell, Column, Estimate, Table, positive, refuse, student_quantile
from largebatch.target._arrays import Floats
from largebatch.target._distributions import chi2_quantile, f_survival, root
from largebatch.target._hyperbola import SamplesToTarget
from largebatch.target._profile import Scan
from largebatch.target._seed_noise import BatchRuns, Runs, smallest_gap, summaries
from largebatch.target._verdict import verdict

__all__ = ["HyperbolaFit", "fit_hyperbola"]

_LARGEST_VARIANCE = 25.0  # of a logarithm: batches a factor e⁵ apart


@final
@dataclass(frozen=True)
class HyperbolaFit(SamplesToTarget):
    """A curve of samples-to-target, what it rests on, and whether it fits.

    Args:
        fewest_samples: E_min, in `unit`; a median over seeds.
        critical_batch_size: B_crit, in samples; infinite where larger batches cost nothing in the data.
        fewest_updates: S_min = E_min/B_crit.
        seed_noise: σ, as a share of the samples to target; NaN where no batch has two runs.
        batch_scatter: τ, the same, of batches about the curve.
        lack_of_fit_p: the probability of such a scatter from seeds alone; NaN where it cannot be told.
        fits, reason: whether the curve may be used, and why not, or what limits it.
        batches: what the seeds said, batch by batch.
        period, period_source: evaluation period in `unit`, and "given" or "inferred".
        unit, samples_per_unit: "epochs" and the samples of one; or "samples" and 1.
    """

    fewest_samples: Estimate
    critical_batch_size: Estimate
    fewest_updates: Estimate
    seed_noise: Estimate
    batch_scatter: Estimate
    lack_of_fit_p: float
    fits: bool
    reason: str
    batches: tuple[BatchRuns, ...]
    period: float
    period_source: str
    unit: str = "samples"
    samples_per_unit: float = 1.0
    level: float = 0.95

    def predict(self, batch_size: float, *, seeds: float = 1) -> Estimate:
        """Samples to the target, in `unit`, at a batch whose recipe is tuned anew.

        Args:
            batch_size: global, in samples.
            seeds: the interval is for the mean over this many runs; infinite for the batch's own median.
        """
        value, low, high = (float(x[0]) for x in self._predict(np.array([float(batch_size)]), seeds))
        return Estimate(value, math.nan, low, high, len(self._means), self.unit, self.level, self.reservation)

    def interval(self, batch_size: Floats) -> tuple[Floats, Floats, Floats]:
        """Median, low, high of one run, in samples."""
        value, low, high = (x * self.samples_per_unit for x in self._predict(batch_size, 1))
        return value, low, high

    @property
    def reservation(self) -> str:
        """The reason where the curve does not fit."""
        return "" if self.fits else self.reason

    def text(self) -> str:
        """The fit for a terminal."""
        columns = ["batch", Column("runs"), Column("reached"), Column("needed", self.unit), Column("curve", self.unit)]
        curve = self._predict(np.array([cell.batch_size for cell in self.batches]), 1)[0]
        rows: list[list[Cell]] = [
            [f"{c.batch_size:g}", c.runs, c.reached, None if c.reached == 0 else math.exp(c.log_mean), float(fitted)]
            for c, fitted in zip(self.batches, curve, strict=True)
        ]
        lines = [
            Table(columns, rows).text(),
            f"fewest samples  {self.fewest_samples}",
            f"critical batch  {self.critical_batch_size}",
            f"seed noise {100 * self.seed_noise.value:.2g} %, scatter of batches {100 * self.batch_scatter.value:.2g} %"
            f", evaluation period {self.period:g} {self.unit} ({self.period_source})",
            f"{'fits' if self.fits else 'DOES NOT FIT'}{': ' if self.reason else ''}{self.reason}",
        ]
        return "\n".join(lines)

    def _predict(self, batch_size: Floats, seeds: float) -> tuple[Floats, Floats, Floats]:
        """Median, low, high, in `unit`; the variances of the profile and of the seeds add."""
        between, within = len(self._means) - 2, sum(cell.runs for cell in self._means) - len(self._means)
        value, *ends = self._scan.log_interval(batch_size, new_batch=True)
        own = self.seed_noise.value**2 / seeds if within else 0.0
        distances: list[Floats] = []
        for end in ends:
            profile = ((end - value) / student_quantile(between, self.level)) ** 2 if between else (end - value) ** 2
            total = profile + own
            # Satterthwaite 1946, Biometrics Bulletin 2:110: the degrees of freedom of a sum of variances.
            terms = profile**2 / max(between, 1) + own**2 / max(within, 1)
            freedom = total**2 / np.where(terms > 0, terms, 1.0)
            distances.append(student_quantile(np.maximum(freedom, 1.0), self.level) * np.sqrt(total))
        return np.exp(value), np.exp(value - distances[0]), np.exp(value + distances[1])

    @property
    def _means(self) -> list[BatchRuns]:
        return [cell for cell in self.batches if cell.reached]

    @cached_property
    def _scan(self) -> Scan:
        return Scan.over(self._means, self.batch_scatter.value**2, self.level)


def fit_hyperbola(
    reached: Mapping[int, Sequence[float]],
    *,
    missed: Mapping[int, Sequence[float]] | None = None,
    period: float | Mapping[int, float] | None = None,
    unit: str = "samples",
    samples_per_unit: float = 1.0,
    level: float = 0.95,
) -> HyperbolaFit:
    """The hyperbola through the samples that runs needed to reach one target.

    Args:
        reached: by global batch, one value per seed, in `unit`: at which evaluation the target was first met.
        missed: by global batch, how far the runs went that never met it, one value each.
        period: samples from one evaluation to the next, in `unit`, for all batches or for each; None reads it off the
            values.
        unit: "samples" or "epochs"; every value is in it.
        samples_per_unit: 1, or the samples of an epoch.
        level: the probability with which the intervals cover.

    Returns:
        The fit. Two batches determine the curve and leave no interval.

    Raises:
        ValueError: fewer than two batches that reached the target, values that are not above 0; all mistakes are told.
    """
    missed = missed or {}
    _refuse_bad_runs(reached, missed, period, samples_per_unit, level)
    source = "given" if period is not None else "inferred"
    sizes = sorted({size for size, values in [*reached.items(), *missed.items()] if len(values)})
    periods = _periods(reached, sizes, period)
    runs = [_runs(size, reached.get(size, ()), missed.get(size, ()), periods[size]) for size in sizes]
    cells, sigma, freedom = summaries(runs)
    means = [cell for cell in cells if cell.reached]
    scatter = _scatter(means, level)
    scan = Scan.over(means, scatter.value**2, level)
    seeds = _seed_noise(sigma, freedom, level)
    p = _lack_of_fit(means, freedom, level)
    least, critical, updates = _parameters(scan, len(means), unit, samples_per_unit, level)
    fit = HyperbolaFit(
        least,
        critical,
        updates,
        seeds,
        scatter,
        p,
        True,
        "",
        cells,
        max(periods.values()),
        source,
        unit,
        samples_per_unit,
        level,
    )
    predictions = [fit.predict(cell.batch_size) for cell in cells]
    fits, reason = verdict(cells, predictions, scatter.value, p, unit)
    return replace(fit, fits=fits, reason=reason)


def _periods(
    reached: Mapping[int, Sequence[float]], sizes: Sequence[int], period: float | Mapping[int, float] | None
) -> Mapping[int, float]:
    if isinstance(period, Mapping):
        return period
    if period is None:
        gap = smallest_gap(list(reached.values()))
        # Without two different values nothing tells the period; 0 takes every value as exact.
        period = 0.0 if math.isnan(gap) else gap
    return dict.fromkeys(sizes, period)


def _runs(size: float, reached: Sequence[float], missed: Sequence[float], period: float) -> Runs:
    values, given_up = np.array(reached, np.float64), np.array(missed, np.float64)
    # A value taken as exact still needs an interval; no rounding of the data is finer than this.
    width = np.maximum(period, 1e-9 * values)
    low = np.concatenate([np.maximum(values - width, 0.0), given_up])
    return Runs(float(size), low, np.concatenate([values, np.full(len(given_up), np.inf)]))


def _scatter(cells: Sequence[BatchRuns], level: float) -> Estimate:
    """τ by Paule and Mandel, with the interval in which Q is a likely χ² (Viechtbauer 2007, Stat. Med. 26:37)."""
    freedom = len(cells) - 2
    if freedom == 0:
        return Estimate(
            0.0, math.nan, math.nan, math.nan, len(cells), level=level, note="two batches leave no residual"
        )

    def tau(wanted: float) -> float:
        def excess(variance: float) -> float:
            scan = Scan.over(cells, variance, level)
            return float(scan.q[scan.best]) - wanted

        if excess(_LARGEST_VARIANCE) > 0:
            return math.sqrt(_LARGEST_VARIANCE)
        return math.sqrt(root(excess, 0.0, _LARGEST_VARIANCE)) if excess(0.0) > 0 else 0.0

    low, high = (tau(chi2_quantile(freedom, (1 + sign * level) / 2)) for sign in (1, -1))
    return Estimate(tau(freedom), math.nan, low, high, len(cells), level=level)


def _seed_noise(sigma: float, freedom: int, level: float) -> Estimate:
    if freedom == 0:
        note = "one run a batch: seeds and scatter cannot be told apart"
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0, level=level, note=note)
    low, high = (sigma * math.sqrt(freedom / chi2_quantile(freedom, (1 + sign * level) / 2)) for sign in (1, -1))
    return Estimate(sigma, sigma / math.sqrt(2 * freedom), low, high, freedom + 1, level=level)


def _lack_of_fit(cells: Sequence[BatchRuns], freedom: int, level: float) -> float:
    between = len(cells) - 2
    if not between or not freedom:
        return math.nan
    scan = Scan.over(cells, 0.0, level)
    return f_survival(between, freedom, float(scan.q[scan.best]) / between)


def _parameters(
    scan: Scan, batches: int, unit: str, samples_per_unit: float, level: float
) -> tuple[Estimate, Estimate, Estimate]:
    """E_min, B_crit and S_min."""
    t = student_quantile(batches - 2, level) if batches > 2 else math.nan
    note = "" if batches > 2 else "two batches leave no interval; measure a third"

    def estimate(value: float, low: float, high: float, unit: str) -> Estimate:
        if batches == 2:
            low = high = math.nan
        stderr = (high - low) / (2 * t) if math.isfinite(high) else math.nan
        return Estimate(value, stderr, low, high, batches, unit, level, note)

    value, low, high = (math.exp(float(x[0])) for x in scan.log_interval(np.zeros(1)))
    least = estimate(value, low, high, unit)
    critical = estimate(*scan.critical, "samples")
    value, low, high = (samples_per_unit * math.exp(x) for x in scan.log_fewest_updates())
    updates = estimate(value, low, high, "updates")
    return least, critical, updates


def _refuse_bad_runs(
    reached: Mapping[int, Sequence[float]],
    missed: Mapping[int, Sequence[float]],
    period: float | Mapping[int, float] | None,
    samples_per_unit: float,
    level: float,
) -> None:
    mistakes: list[str] = []
    for name, cells in (("reached", reached), ("missed", missed)):
        for size, values in cells.items():
            if not (size > 0 and math.isfinite(size)):
                mistakes.append(f"{name}: expected batch sizes above 0, got {size}; give the global batch in samples")
            bad = [str(value) for value in values if not (value > 0 and math.isfinite(value))]
            if bad:
                mistakes.append(
                    f"{name}[{size:g}]: expected values above 0 and finite, got {', '.join(bad)}; "
                    "a run without the target belongs to `missed`, with the samples it was given"
                )
    usable = sum(1 for values in reached.values() if len(values))
    if usable < 2:
        mistakes.append(
            f"reached: expected runs that reached the target at 2 batches or more, got {usable}; "
            "measure another batch, or ask for an easier target"
        )
    for value in period.values() if isinstance(period, Mapping) else [] if period is None else [period]:
        mistakes += positive("period", value, "the samples between evaluations", "or None to read it off the values")
    mistakes += positive(
        "samples_per_unit", samples_per_unit, "the samples of one unit", "an epoch has the training set's"
    )
    if not 0 < level < 1:
        mistakes.append(f"level: expected a probability between 0 and 1, got {level}; usual is 0.95")
    refuse("fit of samples to target", mistakes)
