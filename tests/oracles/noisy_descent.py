"""Gradient descent on a noisy quadratic as a recursion of moments: the expected loss after every update, exactly.

w ← w − η·(Hw + ē), ē of mean 0 and covariance Σ/B. Then E w ← (I − ηH)·E w, and the covariance C ← (I − ηH)·C·(I − ηH) +
η²·Σ/B. The expected loss is that of E w plus tr(HC)/2.
"""

import numpy as np


def expected_losses(curvature, noise, start, *, batch, rate, updates):
    """(updates + 1,) from the start on."""
    keep = np.eye(len(start)) - rate * curvature
    mean, covariance = start.copy(), np.zeros_like(curvature)
    losses = []
    for _ in range(updates + 1):
        losses.append(mean @ curvature @ mean / 2 + np.trace(curvature @ covariance) / 2)
        mean = keep @ mean
        covariance = keep @ covariance @ keep + rate**2 * noise / batch
    return np.array(losses)


def samples_to(target, curvature, noise, start, *, batch, rate, updates=100_000):
    """Samples until the expected loss is at the target, a whole number of updates or, between two, interpolated."""
    mean, covariance = start.copy(), np.zeros_like(curvature)
    keep = np.eye(len(start)) - rate * curvature
    before = None
    for update in range(updates):
        loss = mean @ curvature @ mean / 2 + np.trace(curvature @ covariance) / 2
        if loss <= target:
            share = (before - target) / (before - loss)
            return batch * (update - 1 + share)
        before = loss
        mean = keep @ mean
        covariance = keep @ covariance @ keep + rate**2 * noise / batch
    return float("inf")


def critical_batch(batches, samples):
    """B_crit of E = E_min·(1 + B/B_crit) by least squares on relative residuals."""
    batches, samples = np.asarray(batches, float), np.asarray(samples, float)
    design = np.stack([1 / samples, batches / samples], axis=1)
    (least, slope), *_ = np.linalg.lstsq(design, np.ones(len(samples)), rcond=None)
    return least / slope
