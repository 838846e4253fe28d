"""Hypotheses that a run's log decides: it over-fits, it stays near its start, its optimisation failed.

(i) and (iii) are those of Keskar et al. 2017 (arXiv 1609.04836, section 2.2): held-out accuracy that peaks and falls
(their figure 2: it does not), and a minimiser near the start (‖x_SB − x₀‖ / ‖x_LB − x₀‖ between 3 and 10). Hoffer et al.
2017 (arXiv 1705.08741) explain (iii) by the number of updates: ‖x_t − x₀‖ ~ log t, a random walk on a random potential.
(v) is that of Goyal et al. 2017 (arXiv 1706.02677, sections 2.2 and 5): the curves part in training already.
"""

import math
from itertools import pairwise
from statistics import fmean

from largebatch.diagnose._evidence import Evidence, Read, RunRecord, Verdict, along, decide
from largebatch.diagnose._words import advise, per_cent, shown, verdict
from largebatch.recipe import Timeline
from largebatch.results import Estimate, line_fit

__all__ = ["failed_optimisation", "near_start", "over_fitting"]

NEAR = 1.5  # times as far; our choice, half of the least that Keskar et al. saw
DIVERGED = 0.5  # share of the large runs; our choice
EARLY = 0.2  # share of the run in which a spike counts as early: the longest warmup `recipe.at` brings


def over_fitting(evidence: Evidence) -> Verdict:
    """Does held-out error fall and then rise again, more with the large batch? What early stopping would win back."""
    name = f"held_out_{evidence.metric}"

    def rise(run: RunRecord) -> float | None:
        errors = [evidence.error(row[name]) for row in run.epochs if name in row]
        return errors[-1] - min(errors) if errors else None

    effect, decision = evidence.explains(rise)
    loss = evidence.ratio(lambda run: run.metrics.get("train_loss"))
    text = (
        f"from its best epoch to the last the held-out error rises by {shown(evidence.mean('large', rise, evidence.unit))} "
        f"with the large batch, {shown(evidence.mean('small', rise, evidence.unit))} with the small one; "
        f"train loss large ÷ small: {shown(loss)}"
    )
    return verdict("over_fitting", decision, effect, text, advise(
        decision, effect,
        supported="stop at the best epoch (its checkpoint is kept), or regularise more",
        contradicted="stopping early would not close the gap: do not look there",
    ))  # fmt: skip


def near_start(evidence: Evidence) -> Verdict:
    """How many times as far from its start does the small batch get, at equal epochs and at equal updates?"""
    samples = _last_common(evidence, "samples")
    updates = _last_common(evidence, "update")
    effect = evidence.ratio(_nearness("distance", "samples", samples))
    at_updates = evidence.ratio(_nearness("distance", "update", updates))
    path = evidence.ratio(_nearness("path_length", "samples", samples))
    decision = decide(effect, NEAR)
    by_updates = decide(at_updates, NEAR) == "supported"
    text = (
        f"‖x − x₀‖ small ÷ large is {shown(effect)} at equal epochs and {shown(at_updates)} at equal updates, "
        f"path length {shown(path)} at equal epochs{_growth(evidence)}"
    )
    return verdict("near_start", decision, effect, text, advise(
        decision, effect,
        supported=(
            "even at equal updates it stays near: raise the rate with the batch (recipe.at does), or start with a small one"
            if by_updates else
            "it is the number of updates (Hoffer et al. 2017): train the large batch for more (--budget updates), or raise "
            "the rate with the batch"
        ),
        contradicted="the large batch gets as far: more exploration is not what it lacks",
    ))  # fmt: skip


def failed_optimisation(evidence: Evidence) -> Verdict:
    """Is the large batch worse on its training data already, or does it diverge?"""
    lost = {side: [run for run in runs if run.status == "diverged"]
            for side, runs in (("small", evidence.small), ("large", evidence.large))}  # fmt: skip
    share = len(lost["large"]) / len(evidence.large)
    read = evidence.error_at_end("train", "reestimated")  # bad statistics are another hypothesis
    if math.isnan(evidence.difference(read).value):
        read = evidence.error_at_end("train")
    effect, decision = evidence.explains(read)
    parts = [f"train error large − small is {shown(effect)}", *_diverged(lost["large"])]
    if share >= DIVERGED and share > len(lost["small"]) / len(evidence.small):
        decision = "supported"
        if math.isnan(effect.value):
            effect = Estimate(100 * share, math.nan, math.nan, math.nan, len(evidence.large), "% diverged")
    parts += [*_largest_distance(evidence), *_spikes(evidence), *_linear_rule(evidence)]
    return verdict("failed_optimisation", decision, effect, "; ".join(parts), advise(
        decision, effect,
        supported="warm up longer or gradually from the small-batch rate, lower the rate, or clip gradients",
        contradicted="training itself works: the gap arises between training and test data",
        is_certain=decision == "supported",
    ))  # fmt: skip


def _nearness(name: str, clock: str, at: float) -> Read:
    def read(run: RunRecord) -> float | None:
        value = along(run.steps, clock, name, at)
        return 1 / value if value else None

    return read


def _last_common(evidence: Evidence, clock: str) -> float:
    """The latest moment that every finished run has logged; each logged its last row a little before its end."""
    ends = [
        run.steps[-1][clock] for run in (*evidence.small, *evidence.large) if run.steps and run.status == "finished"
    ]
    return min(ends, default=math.nan)


def _growth(evidence: Evidence) -> str:
    """Hoffer's log t against a power law, both by the share of the variance of the distance they account for."""
    fits = [fit for run in (*evidence.small, *evidence.large) if run.status == "finished" for fit in _fits(run)]
    if not fits:
        return ""
    logarithm, power, exponent = (fmean(values) for values in zip(*fits, strict=True))
    return (
        f"; over updates t the distance grows as log t with R² {logarithm:.3f}, as t^{exponent:.2f} with R² {power:.3f}"
    )


def _fits(run: RunRecord) -> list[tuple[float, float, float]]:
    points = [(row["update"] + 1, row["distance"]) for row in run.steps if row["distance"] > 0]
    if len(points) < 3:
        return []
    t, y = zip(*points, strict=True)
    log_t = [math.log(value) for value in t]
    power = line_fit(log_t, [math.log(value) for value in y])
    curve = [math.exp(power.intercept + power.slope * value) for value in log_t]
    mean = fmean(y)
    total = math.fsum((v - mean) ** 2 for v in y)
    rest = math.fsum((v - c) ** 2 for v, c in zip(y, curve, strict=True))
    return [(line_fit(log_t, y).r_squared, 1 - rest / total, power.slope)] if total > 0 else []


def _diverged(runs: list[RunRecord]) -> list[str]:
    return [f"{len(runs)} large run(s) diverged ({runs[0].name}: {runs[0].reason.split(';')[0]})"] if runs else []


def _largest_distance(evidence: Evidence) -> list[str]:
    """Where, after warmup, the large batch's train loss lies farthest above the small batch's at the same epoch."""
    small, large = (_mean_curve(runs, "train_loss") for runs in (evidence.small, evidence.large))
    warm = max((_warmup_samples(run) for run in evidence.large), default=0.0)
    shared = [at for at in sorted(small.keys() & large.keys()) if at >= warm]
    if not shared:
        return []
    worst = max(shared, key=lambda at: large[at] - small[at])
    return [
        f"after warmup the train losses are farthest apart at epoch {worst / min(small):.0f}, "
        f"{large[worst]:.3g} against {small[worst]:.3g}"
    ]


def _mean_curve(runs: tuple[RunRecord, ...], name: str) -> dict[float, float]:
    """Over seeds, by samples seen, where all of them have a row."""
    curves = [
        {row["samples"]: row[name] for row in run.epochs if name in row} for run in runs if run.status == "finished"
    ]
    shared = set.intersection(*(set(curve) for curve in curves)) if curves else set[float]()
    return {at: fmean(curve[at] for curve in curves) for at in shared}


def _warmup_samples(run: RunRecord) -> float:
    return Timeline(run.settings, int(run.epochs[0]["samples"])).warmup_samples if run.epochs else 0.0


def _spikes(evidence: Evidence) -> list[str]:
    """How far the train loss climbs back, early: its largest rise above the lowest value before, by the first one."""

    def climb(run: RunRecord) -> float | None:
        losses = [row["train_loss"] for row in run.steps if row["update"] <= EARLY * run.updates]
        if len(losses) < 2:
            return None
        lowest, most = losses[0], 0.0
        for _, loss in pairwise(losses):
            most, lowest = max(most, loss - lowest), min(lowest, loss)
        return most / losses[0]

    edge = [max(row["sharpness_times_lr"] for row in run.curvature) for run in evidence.large if run.curvature]
    curvature = [f"largest η·λ_max on the way {max(edge):.3g} (2 is the edge of stability)"] if edge else []
    small, large = evidence.mean("small", climb), evidence.mean("large", climb)
    if math.isnan(small.value) or math.isnan(large.value):
        return curvature
    climbs = (
        f"{per_cent(large.value)} of its first value with the large batch, {per_cent(small.value)} with the small one"
    )
    return [f"early spikes of the train loss: {climbs}", *curvature]


def _linear_rule(evidence: Evidence) -> list[str]:
    means = {
        at: evidence.mean("small", evidence.measured(f"linear_rule {at}")) for at in ("at the start", "at the end")
    }
    found = ", ".join(f"{mean.value:.2f} {at}" for at, mean in means.items() if not math.isnan(mean.value))
    return [f"the linear rule is off by ‖difference‖ ÷ ‖movement‖ = {found}"] if found else []
