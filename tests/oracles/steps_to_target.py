"""Samples-to-target by another channel: runs drawn from the hyperbola, and its likelihood maximised straight away.

The likelihood here is that of seeds alone (no scatter of batches), all three numbers at once, by Nelder and Mead.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.stats import norm


def draw(rng, batches, seeds, *, least, critical, sigma, tau=0.0, period=0.0, longest=np.inf):
    """(reached, missed) by batch: crossings as evaluations every `period` see them, up to `longest`."""
    reached, missed = {}, {}
    for batch in batches:
        log_curve = np.log(least * (1 + batch / critical)) + tau * rng.standard_normal()
        crossing = np.exp(log_curve + sigma * rng.standard_normal(seeds))
        seen = np.ceil(crossing / period) * period if period else crossing
        reached[batch] = seen[seen <= longest].tolist()
        missed[batch] = [longest] * int((seen > longest).sum())
    return reached, missed


def maximum_likelihood(reached, missed, period):
    """(E_min, B_crit, σ) that make the intervals of all runs most likely."""
    batch, low, high = [], [], []
    for size, values in reached.items():
        for value in values:
            batch.append(size), low.append(max(value - period, 1e-12)), high.append(value)
    for size, values in missed.items():
        for value in values:
            batch.append(size), low.append(value), high.append(np.inf)
    batch, low, high = (np.array(x, float) for x in (batch, low, high))

    def minus_log_likelihood(x):
        mean = x[0] + np.log1p(batch * np.exp(-x[1]))
        mass = norm.cdf((np.log(high) - mean) / np.exp(x[2])) - norm.cdf((np.log(low) - mean) / np.exp(x[2]))
        return -np.log(np.maximum(mass, 1e-300)).sum()

    start = [np.log(low.mean()), np.log(batch.mean()), np.log(0.1)]
    options = {"maxiter": 5000, "maxfev": 5000, "xatol": 1e-9, "fatol": 1e-9}
    best = minimize(minus_log_likelihood, start, method="Nelder-Mead", options=options)
    return np.exp(best.x)
