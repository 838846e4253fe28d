"""Does a quantity go with another over cells? Spearman's rank correlation for each seed, and its mean over seeds.

Cells of one seed are no independent draws, so there is no p-value over cells here: the correlation is found within each
seed, and the interval is Student's over seeds, on Fisher's scale z = artanh ρ.
"""

import math
from collections.abc import Sequence

import numpy as np

from largebatch.results import Estimate, mean_interval

__all__ = ["FEWEST_CELLS", "FEW_CELLS", "correlation", "spearman"]

Pairs = Sequence[tuple[float, float]]
FEWEST_CELLS = 5  # of a correlation that is believed: of four, two in 24 orders are the right one or its reverse
FEW_CELLS = f"too few cells to tell: it takes {FEWEST_CELLS}"
LARGEST = 0.999  # artanh has an end, ranks of few cells often agree wholly


def correlation(by_seed: Sequence[Pairs]) -> Estimate | None:
    """The mean over seeds; None where no seed has values that differ.

    Args:
        by_seed: for each seed the pairs (x, y), one for each cell.
    """
    found = [rho for pairs in by_seed if not math.isnan(rho := spearman(pairs))]
    if not found:
        return None
    z = mean_interval([math.atanh(min(max(rho, -LARGEST), LARGEST)) for rho in found])
    value, low, high = (math.tanh(v) if not math.isnan(v) else math.nan for v in (z.value, z.low, z.high))
    return Estimate(value, (1 - value**2) * z.stderr, low, high, z.n, "", z.level, z.note)


def spearman(pairs: Pairs) -> float:
    """Pearson's correlation of ranks, equal values sharing theirs; NaN where one side does not vary."""
    x, y = (_ranks([pair[side] for pair in pairs]) for side in (0, 1))
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else math.nan


def _ranks(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values)
    below = (array[:, None] > array[None, :]).sum(axis=1)
    equal = (array[:, None] == array[None, :]).sum(axis=1)
    return below + (equal - 1) / 2
