"""The highest value of Σ g_i z_i + ½ h_i z_i² over a box or a ball, in closed form. Knows no search.

Over a box the sum splits, and each term is highest at an end of its interval or, where it curves downwards, where its slope
vanishes inside.
"""

import numpy as np


def highest_in_box(slopes, curvatures, half_widths):
    """g, h, w: (n,) arrays. Returns the maximum over |z_i| ≤ w_i."""
    g, h, w = (np.asarray(a, dtype=float) for a in (slopes, curvatures, half_widths))
    best = np.maximum(g * w, -g * w) + h * w**2 / 2
    inside = np.divide(-g, h, out=np.full_like(g, np.inf), where=h < 0)
    is_inside = (h < 0) & (np.abs(inside) <= w)
    at_top = np.divide(-(g**2), 2 * h, out=np.zeros_like(g), where=is_inside)
    return float(np.where(is_inside, at_top, best).sum())


def highest_linear_in_ball(slopes, scale, norm):
    """The maximum of g'e over ‖e/s‖ ≤ 1, by the dual norm of s∘g; a scale of 0 holds its coordinate fixed."""
    weighted = np.abs(np.asarray(slopes, dtype=float) * np.asarray(scale, dtype=float))
    return float(weighted.sum() if norm == "inf" else np.sqrt((weighted**2).sum()))
