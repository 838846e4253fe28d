"""The global batches of one epoch: one permutation of the data, cut into batches; the last one takes what is left.

Goyal et al. 2017 (arXiv 1706.02677), section 2.5, remark 4: one random permutation per epoch, split over the workers.
A rest of exactly one sample joins the batch before it, because batch norm over one sample is not defined.

Letters: N is `train_size`, B is `batch_size`.
"""

import math

from largebatch.recipe._duration import Duration

__all__ = ["batch_bounds", "in_samples", "samples_before", "updates_per_epoch", "updates_until"]

# 0.1 × 90 epochs is a float: a boundary that misses a whole number of samples by less than this share is that number.
_ROUNDING = 1e-9


def updates_per_epoch(train_size: int, batch_size: int) -> int:
    """How many batches an epoch has; at least 1, also where the data are fewer than the batch."""
    full, rest = divmod(train_size, batch_size)
    if rest == 1 and full > 0:
        return full
    return full + (rest > 0)


def batch_bounds(train_size: int, batch_size: int, index: int) -> tuple[int, int]:
    """(start, stop) of batch `index` within the epoch's permutation."""
    last = index == updates_per_epoch(train_size, batch_size) - 1
    start = index * batch_size
    return start, train_size if last else start + batch_size


def samples_before(train_size: int, batch_size: int, updates: int) -> int:
    """Samples seen by the first `updates` updates."""
    epochs, index = divmod(updates, updates_per_epoch(train_size, batch_size))
    return epochs * train_size + index * batch_size


def updates_until(train_size: int, batch_size: int, samples: float) -> int:
    """The fewest updates that have seen at least `samples`."""
    epochs, rest = divmod(samples, train_size)
    per_epoch = updates_per_epoch(train_size, batch_size)
    return int(epochs) * per_epoch + min(math.ceil(rest / batch_size), per_epoch)


def in_samples(length: Duration, train_size: int, batch_size: int, whole: Duration) -> float:
    """A length in samples, "dur" being shares of `whole`.

    Steps count the samples of their batches, of which the last in an epoch is shorter; a fraction of a step is that
    fraction of its batch.
    """
    if length.unit == "dur":
        samples = length.value * in_samples(whole, train_size, batch_size, whole)
    elif length.unit == "steps":
        steps = int(length.value)
        before, after = (samples_before(train_size, batch_size, n) for n in (steps, steps + 1))
        samples = before + (length.value - steps) * (after - before)
    else:
        samples = length.value * (train_size if length.unit == "ep" else 1)
    return float(round(samples)) if math.isclose(samples, round(samples), rel_tol=_ROUNDING) else samples
