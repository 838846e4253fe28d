"""How verdicts are put into words."""

import math

from largebatch.diagnose._evidence import Decision, Verdict
from largebatch.results import FEWEST_SEEDS, Estimate

__all__ = ["advise", "per_cent", "shown", "verdict"]


def verdict(name: str, decision: Decision, effect: Estimate, evidence: str, advice: str) -> Verdict:
    """A verdict about an effect."""
    return Verdict(name, decision, effect.value, effect.low, effect.high, effect.n, effect.unit, evidence, advice)


def advise(decision: Decision, effect: Estimate, *, supported: str, contradicted: str, is_certain: bool = False) -> str:
    """What to try next: where nothing is decided, what would decide it.

    Args:
        is_certain: the decision stands without an interval.
    """
    if math.isnan(effect.value) and not is_certain:
        return "measure it: nothing here tells"
    if effect.n < FEWEST_SEEDS and not is_certain:
        return f"run at least {FEWEST_SEEDS} seeds of each: no interval from {effect.n}"
    if decision == "undecided":
        return "run more seeds: the interval holds both answers"
    return supported if decision == "supported" else contradicted


def shown(estimate: Estimate) -> str:
    """A number with its interval; a dash where there is none."""
    return "–" if math.isnan(estimate.value) else str(estimate)


def per_cent(share: float) -> str:
    """A share for reading."""
    return f"{100 * share:.0f} %"
