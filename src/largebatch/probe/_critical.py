"""The critical batch by up to three routes, and whether they agree.

Two routes agree where their intervals overlap, and their ratio is told in any case: the noise scale is known to mislead, so
where a dearer route was taken, that one is believed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, final

from largebatch.noise import NoiseEstimate
from largebatch.probe._routes import Route
from largebatch.results import Cell, Column, Result, Table

__all__ = ["Agreement", "CriticalBatch", "critical_batch_size"]

_DEARER = ("sweep", "branches", "noise scale")  # most believed first
_MISLEADS = 2.0


@final
@dataclass(frozen=True)
class Agreement(Result):
    """Two routes compared: `ratio` is first ÷ second; they agree where their intervals overlap."""

    first: str
    second: str
    ratio: float
    agree: bool


@final
@dataclass(frozen=True)
class CriticalBatch(Result):
    """How large a batch still pays.

    Args:
        noise: the noise scale and what it is made of; None where it was not measured.
        critical: a row for each route taken.
        agreements: of all pairs of routes that gave a number.
        warnings: where the answer may mislead, with advice.
    """

    noise: NoiseEstimate | None
    critical: tuple[Route, ...]
    agreements: tuple[Agreement, ...]
    warnings: tuple[str, ...]

    @property
    def believed(self) -> Route | None:
        """The dearest route that gave a number."""
        return _believed(self.critical)

    def to_json(self) -> dict[str, Any]:
        """With the noise scale and its interval at the top."""
        noise = self.noise
        scale = None if noise is None else noise.noise_scale
        head = {
            "noise_scale": None if scale is None else scale.value,
            "low": None if scale is None else scale.low,
            "high": None if scale is None else scale.high,
            "gradient_squared_norm": None if noise is None else noise.gradient_squared_norm.value,
            "noise_trace": None if noise is None else noise.noise_trace.value,
        }
        return head | super().to_json()

    @classmethod
    def from_json(cls, data: Any) -> "CriticalBatch":
        """What `to_json` wrote."""
        fields = ("noise", "critical", "agreements", "warnings")
        return super().from_json({name: data[name] for name in fields})

    def text(self) -> str:
        """For a terminal."""
        columns = ["route", Column("critical batch", "samples"), Column("low"), Column("high"),
                   Column("cost", "samples"), "note"]  # fmt: skip
        rows: list[list[Cell]] = [
            [route.route, *map(_shown, (route.batch_size, route.low, route.high)), route.cost_samples, route.note]
            for route in self.critical
        ]
        lines = [Table(columns, rows).text()]
        if self.noise is not None:
            norms = f"tr Σ {self.noise.noise_trace}, |G|² {self.noise.gradient_squared_norm}"
            lines.append(f"{norms}, from {self.noise.looks} looks")
        for pair in self.agreements:
            verdict = "agree" if pair.agree else "do NOT agree"
            lines.append(f"{pair.first} ÷ {pair.second}: {pair.ratio:.2g}; they {verdict}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        best = self.believed
        if best is not None:
            lines.append(
                f"a batch of {best.batch_size:.3g} [{best.low:.3g}, {best.high:.3g}] needs twice the fewest samples and "
                f"twice the fewest updates (by {best.route})"
            )
        return "\n".join([*lines, ""])


def critical_batch_size(routes: Sequence[Route], noise: NoiseEstimate | None = None) -> CriticalBatch:
    """Compare the routes.

    Args:
        routes: from `by_noise_scale`, `by_branches`, `by_sweep`; one of each kind at most.
        noise: what the noise scale was made of.

    Raises:
        ValueError: no route, or two of one kind.
    """
    names = [route.route for route in routes]
    if not names or len(set(names)) < len(names):
        got = ", ".join(names) or "none"
        raise ValueError(f"routes: expected one or more, each of another kind, got {got}; give each once")
    known = [route for route in routes if route.is_known]
    pairs = tuple(_compare(a, b) for a, b in combinations(known, 2))
    return CriticalBatch(noise, tuple(routes), pairs, tuple(_warnings(routes, pairs)))


def _compare(a: Route, b: Route) -> Agreement:
    ratio = a.batch_size / b.batch_size if math.isfinite(b.batch_size) and b.batch_size > 0 else math.nan
    return Agreement(a.route, b.route, ratio, max(a.low, b.low) <= min(a.high, b.high))


def _warnings(routes: Sequence[Route], pairs: Sequence[Agreement]) -> list[str]:
    found: list[str] = []
    names = [route.route for route in routes]
    if names == ["noise scale"]:
        found.append(
            "the noise scale alone was 0.05 to 8 times the critical batch in McCandlish et al. 2018, table 1, and it means "
            "something on a well-tuned run only: check it by branches (--critical)"
        )
    best = _believed(routes)
    for pair in pairs:
        misleads = pair.ratio < 1 / _MISLEADS or pair.ratio > _MISLEADS
        if pair.first == "noise scale" and best is not None and pair.second == best.route and misleads:
            found.append(f"the noise scale misleads here: it is {pair.ratio:.2g} times what the {pair.second} found")
    return found


def _believed(routes: Sequence[Route]) -> Route | None:
    known = {route.route: route for route in routes if route.is_known}
    return next((known[name] for name in _DEARER if name in known), None)


def _shown(value: float) -> Cell:
    return None if math.isnan(value) else value
