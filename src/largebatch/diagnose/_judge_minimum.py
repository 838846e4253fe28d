"""Hypotheses that measurements at the final weights decide: a saddle, a sharp minimum, unsuited batch-norm statistics.

(ii) and (iv) are those of Keskar et al. 2017 (arXiv 1609.04836, section 2.2). No measure of sharpness is taken for *the*
sharpness. For ReLU networks Metric 2.1, λ_max and the trace can be made anything by rescaling the weights, which changes
no output (Dinh et al. 2017, arXiv 1703.04933); adaptive sharpness cannot (Kwon et al. 2021, arXiv 2102.11600;
Andriushchenko et al. 2023, arXiv 2302.07011). So the two families are asked apart, and have to agree. And λ_max follows
the rate: full-batch gradient descent drives it to the edge of stability 2/η (Cohen et al. 2021, arXiv 2103.00065).
(vi): running statistics lag behind weights that move in few large steps; Goyal et al. 2017 (arXiv 1706.02677, section
2.3) take statistics for a part of the loss.
"""

import math
from typing import Literal

from largebatch.diagnose._evidence import Decision, Evidence, RunRecord, Verdict, decide
from largebatch.diagnose._words import advise, per_cent, shown, verdict
from largebatch.results import Estimate

__all__ = ["batch_norm_statistics", "saddle", "sharp_minimum", "sharpness_ratios"]

SADDLE = 0.1  # −λ_min/λ_max; our choice: at a tenth of the largest, descent along the smallest is no longer negligible
AT_EDGE = 0.8  # of the largest stable η·λ_max; our choice
PLAIN = ("metric_2_1", "metric_2_1_subspace", "metric_2_1_ascent", "sam", "average", "lambda_max", "trace")
"""Measures that a rescaling of layers changes."""
ADAPTIVE = ("asam", "adaptive_linf")
"""Measures that it leaves alone."""

Finding = Literal["sharper", "flatter", "mixed", "undecided", "unmeasured"]


def saddle(evidence: Evidence) -> Verdict:
    """How negative is the large batch's smallest curvature, against its largest, and against the small batch's?"""
    smallest, largest = evidence.measured("lambda_min", "running"), evidence.measured("lambda_max", "running")

    def negativity(run: RunRecord) -> float | None:
        low, high = smallest(run), largest(run)
        return None if low is None or not high or high <= 0 else -low / high

    effect = evidence.mean("large", negativity)
    more = evidence.difference(negativity)
    decision = decide(effect, SADDLE)
    if decision == "supported":
        decision = decide(more, 0.0)  # the small batch may be at one as well: then it explains nothing
    gradient = evidence.mean("large", evidence.measured("gradient_norm", "running"))
    text = (
        f"−λ_min/λ_max is {shown(effect)} with the large batch, {shown(evidence.mean('small', negativity))} with the small "
        f"one; gradient norm {shown(gradient)} against "
        f"{shown(evidence.mean('small', evidence.measured('gradient_norm', 'running')))}"
    )
    return verdict("saddle", decision, effect, text, advise(
        decision, effect,
        supported="train on, with a higher rate or more noise: there is a way down",
        contradicted="there is no way down that curvature would show: training on from a saddle is not the answer",
    ))  # fmt: skip


def sharp_minimum(evidence: Evidence) -> Verdict:
    """Do plain and adaptive measures agree that the large batch's minimum is sharper?"""
    ratios = sharpness_ratios(evidence)
    plain, adaptive = _finding(ratios, PLAIN), _finding(ratios, ADAPTIVE)
    decision = _agree(plain, adaptive)
    effect = next(iter(ratios.values()), Estimate(math.nan, math.nan, math.nan, math.nan, 0))
    parts = [*_counted(ratios, PLAIN, "plain"), *_counted(ratios, ADAPTIVE, "adaptive")] or ["nothing was measured"]
    parts += [*_disagreement(plain, adaptive), *_edge(evidence)]
    if _disagreement(plain, adaptive):
        advice = (
            "trust no single measure: compare at equal rates, and see whether SAM (--set recipe.sam_rho=0.05) helps"
        )
    else:
        advice = advise(
            decision, effect,
            supported="look for a flat minimum: SAM (--set recipe.sam_rho=0.05), a higher rate, or a small batch first",
            contradicted="its minimum is no sharper: do not spend on flatness",
        )  # fmt: skip
    return verdict("sharp_minimum", decision, effect, "; ".join(parts), advice)


def batch_norm_statistics(evidence: Evidence) -> Verdict:
    """How much of the gap goes away when the statistics are taken anew at the final weights?"""
    if any(row.batch_norm == "none" for row in evidence.rows):
        none = Estimate(0.0, 0.0, 0.0, 0.0, min(len(evidence.small), len(evidence.large)), evidence.unit)
        return verdict(
            "batch_norm_statistics", "contradicted", none, "the model has no batch norm", "look elsewhere"
        )  # fmt: skip
    before, after = evidence.error_at_end("test"), evidence.error_at_end("test", "reestimated")

    def won(run: RunRecord) -> float | None:
        running, anew = before(run), after(run)
        return None if running is None or anew is None else running - anew

    effect, decision = evidence.explains(won)
    can_share = evidence.has_gap and not math.isnan(effect.value)
    share = f", {per_cent(effect.value / evidence.gap.value)} of the gap" if can_share else ""
    text = (
        f"new statistics lower the test error by {shown(evidence.mean('large', won, evidence.unit))} with the large batch, "
        f"{shown(evidence.mean('small', won, evidence.unit))} with the small one: a difference of {shown(effect)}{share}"
    )
    return verdict("batch_norm_statistics", decision, effect, text, advise(
        decision, effect,
        supported="re-estimate the statistics before evaluation (core.reestimate); train with recipe.ghost_batch_size=32",
        contradicted="the statistics fit the weights: the gap is in the weights",
    ))  # fmt: skip


def sharpness_ratios(evidence: Evidence) -> dict[tuple[str, str], Estimate]:
    """Large ÷ small of every measure of sharpness, by (name, batch-norm mode), in the order of `PLAIN` and `ADAPTIVE`."""
    kinds = {(row.name, row.batch_norm): None for row in evidence.rows if _kind(row.name) in PLAIN + ADAPTIVE}
    ordered = sorted(kinds, key=lambda kind: (PLAIN + ADAPTIVE).index(_kind(kind[0])))
    return {(name, mode): evidence.ratio(evidence.measured(name, mode)) for name, mode in ordered}


def _counted(ratios: dict[tuple[str, str], Estimate], family: tuple[str, ...], word: str) -> list[str]:
    """The first of the family in each mode, and how many say what."""
    of_family = {kind: ratio for kind, ratio in ratios.items() if _kind(kind[0]) in family}
    if not of_family:
        return []
    first = next(iter(of_family))[0]
    shown_first = ", ".join(f"{shown(ratio)} ({mode})" for (name, mode), ratio in of_family.items() if name == first)
    said = [decide(ratio, 1.0) for ratio in of_family.values()]
    return [
        f"{first} large ÷ small {shown_first}, and of {len(said)} {word} measures {said.count('supported')} say sharper, "
        f"{said.count('contradicted')} flatter"
    ]


def _kind(name: str) -> str:
    """A measure without its options."""
    return name.partition("(")[0]


def _finding(ratios: dict[tuple[str, str], Estimate], family: tuple[str, ...]) -> Finding:
    """What the measures of a family say together: those whose interval holds 1 abstain."""
    of_family = [ratio for (name, _), ratio in ratios.items() if _kind(name) in family]
    if not of_family:
        return "unmeasured"
    said = {decide(ratio, 1.0) for ratio in of_family} - {"undecided"}
    if len(said) == 2:
        return "mixed"
    return "undecided" if not said else "sharper" if "supported" in said else "flatter"


def _agree(plain: Finding, adaptive: Finding) -> Decision:
    said = {plain, adaptive} - {"unmeasured"}
    if said == {"sharper"}:
        return "supported"
    return "contradicted" if said == {"flatter"} else "undecided"


def _disagreement(plain: Finding, adaptive: Finding) -> list[str]:
    if {plain, adaptive} == {"sharper", "flatter"}:
        return [
            f"plain measures say {plain}, adaptive ones {adaptive}: the scale of the weights differs, which plain measures "
            "take for sharpness (Dinh et al. 2017)"
        ]
    if "mixed" in (plain, adaptive):
        family = "plain" if plain == "mixed" else "adaptive"
        return [f"the {family} measures contradict one another: they look at different radii, directions or statistics"]
    return []


def _edge(evidence: Evidence) -> list[str]:
    """η·λ_max against what gradient descent bears, for SGD; Adam's limit is one of preconditioned curvature."""
    top = evidence.measured("lambda_max", "running")

    def share(run: RunRecord) -> float | None:
        value, limit = top(run), _largest_stable(run)
        return None if value is None or limit is None else _peak_rate(run) * value / limit

    small, large = evidence.mean("small", share), evidence.mean("large", share)
    if math.isnan(small.value) or math.isnan(large.value):
        return []
    text = (
        f"η·λ_max at the peak rate is {per_cent(large.value)} of the stable limit (large batch) and "
        f"{per_cent(small.value)} (small)"
    )
    if min(small.value, large.value) > AT_EDGE:
        text += ": both are at the edge of stability, so λ_max tells their rates apart, not their minima"
    return [text]


def _largest_stable(run: RunRecord) -> float | None:
    """The largest η·λ at which the iteration on a quadratic does not grow: 2 for plain gradient descent, (2 + 2m) with
    momentum m, (2 + 2m)/(1 + 2m) with Nesterov's; from the root −1 of the recursion's characteristic polynomial."""
    recipe = run.settings
    if recipe.optimizer != "sgd":
        return None
    m = recipe.momentum
    return (2 + 2 * m) / (1 + 2 * m if recipe.nesterov else 1)


def _peak_rate(run: RunRecord) -> float:
    """Not the last one: a rate that a schedule takes to 0 bounds nothing any more."""
    return max((row["lr"] for row in run.steps), default=run.settings.lr)
