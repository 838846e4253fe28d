"""Whether a hyperbola may be used, and why not.

Without scatter between batches, Q/(m − 2) of `_fit` would follow F(m − 2, N − m), the pure error being that between the N
seeds of m batches. A hyperbola is refused where that is rejected *and* the batches lie far off, for recipes tuned apart
reject it always; and where a batch was given more than the curve has at most, and no run reached the target.
"""

from collections.abc import Sequence

import numpy as np

from largebatch.results import Estimate
from largebatch.target._seed_noise import BatchRuns

__all__ = ["verdict"]

_SIGNIFICANT = 0.01
_FAR = 0.15  # scatter of the batches about the curve; recipes tuned apart left 0.2 to 9 % in seven MLPerf workloads


def verdict(
    cells: Sequence[BatchRuns], curve: Sequence[Estimate], scatter: float, p: float, unit: str
) -> tuple[bool, str]:
    """Whether the curve fits, and the reason or the reservation.

    Args:
        cells: the runs of each batch.
        curve: what the fit predicts for each.
        scatter: of the batches about the curve, as a share.
        p: the probability of such a scatter from seeds alone.
        unit: of the samples.
    """
    means = [(cell, fitted) for cell, fitted in zip(cells, curve, strict=True) if cell.reached]
    seeds = f"{100 * scatter:.2g} % beyond what their seeds explain (p = {p:.1g})"
    if p < _SIGNIFICANT and scatter > _FAR:
        off = [abs(cell.log_mean - np.log(fitted.value)) for cell, fitted in means]
        cell, fitted = means[int(np.argmax(off))]
        return False, (
            f"the batches lie off the curve by {seeds}, most at {cell.batch_size:g}, which needed "
            f"{np.exp(cell.log_mean):.3g} {unit} where the curve has {fitted.value:.3g}; "
            "the usual cause is a recipe that changes between batches"
        )
    for cell, fitted in zip(cells, curve, strict=True):
        if cell.reached == 0 and fitted.high < cell.longest:
            return False, (
                f"no run at batch {cell.batch_size:g} reached the target in {cell.longest:.4g} {unit}, "
                f"where the curve has at most {fitted.high:.4g}; use the curve below that batch only: leave its runs out"
            )
    if len(means) == 2:
        return True, "two batches determine the curve; a third would show whether it fits"
    if p < _SIGNIFICANT:
        return True, f"the batches scatter by {seeds}, as recipes tuned apart do; intervals include it"
    return True, ""
