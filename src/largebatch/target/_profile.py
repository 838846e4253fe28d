"""The profile of the hyperbola: its fit to batch means as a scan over one number.

E(B) = E_min·(1 + B/B_crit) is, on the log scale and given c = 1/B_crit, linear in a = ln E_min: ln E(B) = a + ln(1 + c·B).
So the best a at every c is a weighted mean, the residual Q(c) a curve, and the profile of any number (E_min, S_min, E at
a new batch) the union over c of intervals known in closed form: with variance V given c, ± √((limit − Q(c))·V).
The limit Q_min·(1 + t²/(m − 2)), t Student's quantile, is that of Bates and Watts 1988 (Nonlinear Regression Analysis,
section 6.1); its scale Q_min/(m − 2) that of Knapp and Hartung 2003 (Stat. Med. 22:2693). c is scanned from 0 on, so
B_crit is never negative and may be infinite.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from largebatch.results import student_quantile
from largebatch.target._arrays import Booleans, Floats
from largebatch.target._seed_noise import BatchRuns

__all__ = ["Scan"]

_POINTS = 300


@dataclass(frozen=True)
class Scan:
    """The fit as a function of c = 1/B_crit: at each, the best a = ln E_min and the residual Q.

    Args:
        c, q, a: (k,), `best` the index of the least Q.
        limit: Q of the interval's ends; NaN where two batches leave none.
        variance: of a, given c; `scatter` τ², that of one batch about the curve.
    """

    c: Floats
    q: Floats
    a: Floats
    best: int
    limit: float
    variance: float
    scatter: float

    @classmethod
    def over(cls, cells: Sequence[BatchRuns], scatter: float, level: float) -> "Scan":
        """Scan all of B_crit, then twice where the interval lies."""
        batches = np.array([cell.batch_size for cell in cells])
        # Beyond these the curve is flat, or straight through 0, within one part in 10⁴.
        flat, steep = 1e-4 / float(batches.max()), 1e4 / float(batches.min())
        scan = cls._at(_from_zero(0.0, flat, steep), cells, scatter, level)
        for _ in range(2):
            inside = scan._inside
            first, last = int(inside.argmax()) - 1, len(inside) - int(inside[::-1].argmax())
            low, high = float(scan.c[max(first, 0)]), float(scan.c[min(last, len(inside) - 1)])
            scan = cls._at(_from_zero(low, flat, max(high, 2 * flat)), cells, scatter, level)
        return scan

    @classmethod
    def _at(cls, c: Floats, cells: Sequence[BatchRuns], scatter: float, level: float) -> "Scan":
        table: Floats = np.array([(x.batch_size, x.log_mean, x.log_stderr) for x in cells])
        batches, means, errors = table.T  # (m,) each
        weights = 1 / (scatter + errors**2)
        above = means - np.log1p(c[:, None] * batches)  # (k, m): ln E_min as each batch has it
        a = above @ weights / weights.sum()
        q = (above - a[:, None]) ** 2 @ weights
        best, freedom = int(q.argmin()), len(cells) - 2
        limit = q[best] * (1 + student_quantile(freedom, level) ** 2 / freedom) if freedom else math.nan
        return cls(c, q, a, best, float(limit), 1 / float(weights.sum()), scatter)

    @property
    def _inside(self) -> Booleans:
        inside = self.q <= self.limit
        inside[self.best] = True
        return inside

    @property
    def critical(self) -> tuple[float, float, float]:
        """B_crit: best, low, high; from 0 to infinity, which the ends of the scan stand for."""
        inside = self.c[self._inside]
        best, low, high = (1 / float(c) if c > 0 else math.inf for c in (self.c[self.best], inside[-1], inside[0]))
        if inside[-1] == self.c[-1]:  # the scan itself ended here
            low = 0.0
        return best, low, high

    def log_interval(self, batch_size: Floats, *, new_batch: bool = False) -> tuple[Floats, Floats, Floats]:
        """ln E(B): best, low, high, (n,) each; of a batch with its own u for `new_batch`, else of the curve."""
        inside = self._inside
        c, a = self.c[inside], self.a[inside]
        log_e = a[:, None] + np.log1p(c[:, None] * batch_size)  # (k, n)
        variance = self.variance + (self.scatter if new_batch else 0.0)
        half = np.sqrt(np.maximum(self.limit - self.q[inside], 0) * variance)[:, None]
        best = self.a[self.best] + np.log1p(self.c[self.best] * batch_size)
        return best, (log_e - half).min(axis=0), (log_e + half).max(axis=0)

    def log_fewest_updates(self) -> tuple[float, float, float]:
        """ln S_min = a + ln c: best, low, high."""
        inside = self._inside & (self.c > 0)
        half = np.sqrt(np.maximum(self.limit - self.q[inside], 0) * self.variance)
        with np.errstate(divide="ignore"):
            log_s, best = self.a[inside] + np.log(self.c[inside]), self.a[self.best] + np.log(self.c[self.best])
        low = -math.inf if self._inside[0] and self.c[0] == 0 else float((log_s - half).min())
        return float(best), low, float((log_s + half).max(initial=float(best)))


def _from_zero(low: float, flat: float, high: float) -> Floats:
    """1/B_crit from `low` to `high`, evenly in the logarithm; what is below `flat` is 0."""
    c = np.exp(np.linspace(math.log(max(low, flat)), math.log(high), _POINTS))
    return np.concatenate([[0.0], c]) if low == 0 else c
