"""Six hypotheses on why a large-batch model generalises worse, each judged from stored tables by one small function.

(i) to (iv) as Keskar et al. 2017 (arXiv 1609.04836, section 2.2) list them, (v) as Goyal et al. 2017 (arXiv 1706.02677)
object, (vi) as Hoffer et al. 2017 (arXiv 1705.08741) and Goyal's section 2.3 make one suspect. Several may hold at once.
"""

from collections.abc import Callable

from largebatch.diagnose._evidence import Evidence, Verdict
from largebatch.diagnose._judge_minimum import batch_norm_statistics, saddle, sharp_minimum
from largebatch.diagnose._judge_training import failed_optimisation, near_start, over_fitting

__all__ = ["HYPOTHESES", "judge"]

HYPOTHESES: dict[str, str] = {
    "over_fitting": "it over-fits",
    "saddle": "it sits at a saddle",
    "near_start": "it stays near its start",
    "sharp_minimum": "its minimum is sharper",
    "failed_optimisation": "its optimisation failed",
    "batch_norm_statistics": "its batch-norm statistics are off",
}
"""What each says of the large batch."""

JUDGES: tuple[Callable[[Evidence], Verdict], ...] = (
    over_fitting, saddle, near_start, sharp_minimum, failed_optimisation, batch_norm_statistics,
)  # fmt: skip


def judge(evidence: Evidence) -> tuple[Verdict, ...]:
    """Every hypothesis, in the order of `HYPOTHESES`."""
    return tuple(judge_one(evidence) for judge_one in JUDGES)
