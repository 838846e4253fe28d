"""How long a loop is watched, and which of its gradients are replayed: the first ones, and the end of an epoch."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, final

from largebatch.replay import Pass, SampleLog

__all__ = ["Extent"]

AFTER_EPOCH = 7  # updates watched in the second epoch
PATIENCE = 20  # updates to wait for a second epoch once loaders end early


@final
class Extent:
    """Judges by the updates that are done.

    Args:
        updates: watched at most, before loaders end their epoch early.
        gradients: of the first updates that are replayed.
        stops: the loop is ended once enough was seen.
    """

    def __init__(self, updates: int, gradients: int, *, stops: bool):
        self._limit = updates if stops else sys.maxsize
        self._gradients = gradients
        self._stops = stops

    def has_enough(self, updates: Sequence[Mapping[str, Any]], samples: SampleLog) -> bool:
        """Whether the loop may be ended; lets the loaders end their epoch when it is long."""
        done, epochs = len(updates), len(samples.training)
        if not self._stops or not epochs:
            return done >= self._limit
        if done >= self._limit:
            samples.is_ending = True
        if epochs > 1:
            return sum(update["epoch"] > 1 for update in updates) >= AFTER_EPOCH
        return done >= self._limit + PATIENCE

    def is_replayed(
        self, begun: Pass, window: Sequence[Pass], updates: Sequence[Mapping[str, Any]], samples: SampleLog
    ) -> bool:
        """Whether a pass is, which begins now; all of one update are, or none.

        Args:
            window: the passes of the same update before it.
        """
        if samples.is_ending:
            return False
        if window:
            return window[0].is_replayed
        if len(updates) < self._gradients:
            return True
        reading = begun.origin.batch.reading if begun.origin else None
        longest = max((len(update["micro_batches"]) for update in updates), default=1)
        return reading is not None and reading.number == 1 and reading.remaining < longest
