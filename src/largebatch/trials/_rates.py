"""The best learning rate on a grid of doublings, by walking downhill from a guess.

Shallue et al. 2019 (arXiv 1811.03600) tune every batch anew with about a hundred trials, since no rule of scaling held over
their workloads. With one number to tune a walk of three or four trials finds the best of the grid, if there is one valley.
"""

import math
from collections.abc import Callable

__all__ = ["best_rate"]

_MOST = 8  # doublings or halvings from the guess


def best_rate(cost: Callable[[float, float], float], guess: float) -> float:
    """The rate of the least cost; the guess where all are infinite.

    Args:
        cost: of a rate, and the least cost so far, beyond which it need not be followed; infinite for a failure.
        guess: where to begin; rates are this times powers of 2.
    """
    found: dict[int, float] = {}

    def at(step: int) -> float:
        if step not in found:
            found[step] = cost(guess * 2.0**step, min(found.values(), default=math.inf))
        return found[step]

    here = 0
    while math.isinf(at(here)) and here > -_MOST:  # too large a rate fails; too small a one is only slow
        here -= 1
    way = 1 if here == 0 and at(1) < at(0) else -1
    while abs(here + way) <= _MOST and at(here + way) < at(here):
        here += way
    return guess * 2.0**here if math.isfinite(found[here]) else guess
