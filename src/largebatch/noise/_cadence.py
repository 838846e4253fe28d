"""How often to look, so that looking takes a given share of the time: measured, not guessed.

The first updates are timed with and without looks. If a look costs c plain updates, one in c/overhead is looked at: their
cost is then `overhead` of the time. Medians, for a single update may have met anything.
"""

import os
import statistics
import time
from typing import Any, final

__all__ = ["Cadence"]

_WARM = 2  # updates that allocate, compile and tune
_TRIALS = 5  # looks that are timed, every third update
_RANKS_EVERY = 100


@final
class Cadence:
    """Which updates to look at.

    Args:
        every: given, or None to find it.
        overhead: share of the time that looks may take.

    Raises:
        ValueError: no update between looks, or no time for them; both are told.
    """

    def __init__(self, every: int | None, overhead: float):
        mistakes: list[str] = []
        if every is not None and every < 1:
            mistakes.append(f"every: expected 1 update or more between looks, got {every}: 1 looks at each")
        if not 0 < overhead < 1:
            mistakes.append(
                f"overhead: expected a share of the time between 0 and 1, got {overhead}: for example 0.005"
            )
        if mistakes:
            raise ValueError("\n".join(mistakes))
        self.every = every
        self._overhead = overhead
        self._seconds: tuple[list[float], list[float]] = ([], [])  # of plain updates, and of those looked at
        self._begun: float | None = None
        self._looked = False

    def is_due(self, update: int, *, several_ranks: bool = False) -> bool:
        """Whether to look at this update; called at the beginning of each."""
        if self.every is None and (several_ranks or os.environ.get("WORLD_SIZE", "1") != "1"):
            self.every = _RANKS_EVERY
        if self.every is None:
            self._time()
        if self.every is None:
            self._looked = update >= _WARM and update % 3 == 0
        else:
            self._looked = update % self.every == 0
        return self._looked

    def pause(self) -> None:
        """What comes until the next update is none's time."""
        self._begun = None

    def state_dict(self) -> dict[str, Any]:
        """What has been found."""
        return {"every": self.every, "plain": list(self._seconds[0]), "looked": list(self._seconds[1])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as it was found: the clock is not asked again."""
        self.every, self._seconds = state["every"], (list(state["plain"]), list(state["looked"]))

    def _time(self) -> None:
        now = time.perf_counter()
        if self._begun is not None:
            self._seconds[self._looked].append(now - self._begun)
        self._begun = now
        plain, looked = self._seconds
        if len(looked) >= _TRIALS:
            typical = statistics.median(plain[_WARM:])
            cost = max(0.0, statistics.median(looked) / typical - 1)
            self.every = max(1, round(cost / self._overhead))
