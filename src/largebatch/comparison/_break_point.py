"""Where a level line bends down: y = a − b·max(0, x − c), b ≥ 0, by least squares, c anywhere within the points."""

from collections.abc import Sequence

import numpy as np

__all__ = ["break_point"]

KNOTS = 400


def break_point(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The bend c; None where no bend explains more than a level line, that is where the best slope is 0.

    Args:
        x: at least 3 different values, such as log₂ of the batch.
        y: such as accuracies.
    """
    points, values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    level = float(((values - values.mean()) ** 2).sum())
    best, found = level * (1 - 1e-12), None
    for knot in np.linspace(points.min(), np.sort(points)[-2], KNOTS):
        beyond = np.maximum(0.0, points - knot)
        centred = beyond - beyond.mean()
        slope = float(centred @ (values - values.mean()) / (centred @ centred))
        if slope < 0:
            rest = float(((values - values.mean() - slope * centred) ** 2).sum())
            if rest < best:
                best, found = rest, float(knot)
    return found
