"""A table of the page: what is read, what is downloaded, and each interval drawn beside its number.

The drawing is that of a forest plot: a line for the interval, a dot for the estimate, a rule where nothing would differ
(0 for differences, 1 for ratios). All of a column share one scale, so that they can be compared by eye.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from largebatch.results import FEWEST_SEEDS, Cell, Column, Estimate, Table

__all__ = ["Entry", "Scale", "Sheet", "Sketch", "shown"]

SMALLEST_POWER = -3  # of ten, before a number is written with it
RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
ROOM = 1.5  # beside the outermost estimates, in median half-widths: longer intervals end in an arrow


@dataclass(frozen=True)
class Sketch:
    """An interval as percentages of the drawing's width.

    Args:
        rule: where nothing would differ.
        cut_low, cut_high: whether the interval goes on beyond the drawing.
    """

    at: float
    low: float
    high: float
    rule: float
    cut_low: bool
    cut_high: bool


@dataclass(frozen=True)
class Scale:
    """Of a column of intervals.

    Args:
        low, high: ends of the drawing, in units of the estimates or of their logarithms.
        neutral: where nothing would differ.
        log: estimates are ratios.
    """

    low: float
    high: float
    neutral: float
    log: bool = False

    @classmethod
    def of(cls, estimates: Iterable[Estimate], *, ratio: bool = False) -> "Scale":
        """That shows all estimates, and of most intervals both ends."""
        neutral = 0.0
        told = [tuple(map(_log, (e.low, e.value, e.high))) if ratio else (e.low, e.value, e.high) for e in estimates]
        values = [neutral, *(value for _, value, _ in told if math.isfinite(value))]
        widths = [(high - low) / 2 for low, _, high in told if math.isfinite(high - low)]
        room = ROOM * median(widths) if widths else 0.0
        room = max(room, 0.05 * (max(values) - min(values))) or 1.0
        return cls(min(values) - room, max(values) + room, neutral, ratio)

    def sketch(self, estimate: Estimate) -> Sketch | None:
        """The drawing of an estimate; None where there is none."""
        ends = (estimate.value, estimate.low, estimate.high)
        value, low, high = map(_log, ends) if self.log else ends
        if math.isnan(value) or math.isnan(low) or math.isnan(high):
            return None
        places = [round(self._place(v), 2) for v in (value, low, high, self.neutral)]
        return Sketch(places[0], places[1], places[2], places[3], low < self.low, high > self.high)

    def _place(self, value: float) -> float:
        return 100.0 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Entry:
    """One cell.

    Args:
        value: as `Table` takes it, and the CSV gets it.
        more: below it, smaller.
        sketch: beside it.
        cell: whose mark stands before it; "" for none.
        code: what the CSV has instead; "" for the value itself.
    """

    value: Cell
    more: str = ""
    sketch: Sketch | None = None
    cell: str = ""
    code: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table.

    Args:
        key: its name in files.
        caption: what it shows.
        columns: heads.
        rows: of values, or entries where there is more to say.
        folded: shown only when asked for.
    """

    key: str
    caption: str
    columns: Sequence[str | Column]
    rows: Sequence[Sequence[Cell | Entry]]
    folded: bool = False

    @property
    def heads(self) -> list[Column]:
        """All columns, with units."""
        return [Column(column) if isinstance(column, str) else column for column in self.columns]

    @property
    def entries(self) -> list[list[Entry]]:
        """All rows, as entries."""
        return [[item if isinstance(item, Entry) else Entry(item) for item in row] for row in self.rows]

    def trimmed(self) -> "Sheet":
        """Without the columns that hold nothing."""
        entries = self.entries
        kept = [i for i in range(len(self.columns)) if any(row[i].value is not None for row in entries)]
        return replace(self, columns=[self.columns[i] for i in kept], rows=[[row[i] for i in kept] for row in entries])

    @property
    def csv(self) -> str:
        """Every digit, and the names of the code."""
        return Table(self.columns, [[entry.code or entry.value for entry in row] for row in self.entries]).csv()


def shown(value: Cell, form: str = ".4g") -> str:
    """For reading; the unit stands in the head of the column."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Estimate):
        return "–" if math.isnan(value.value) else _without_unit(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return format(value, form) if isinstance(value, float) else value


def _without_unit(estimate: Estimate) -> str:
    """Small numbers by a power of ten; no interval from two seeds, which spans next to everything."""
    low, high = (estimate.low, estimate.high) if estimate.n >= FEWEST_SEEDS else (math.nan, math.nan)
    sizes = [size for size in (abs(estimate.value), (high - low) / 2) if size and math.isfinite(size)]
    power = math.floor(math.log10(max(sizes))) if sizes else 0
    factor, unit = (1.0, "") if power >= SMALLEST_POWER else (10.0**-power, f"× 10{str(power).translate(RAISED)}")
    value, low, high = (factor * number for number in (estimate.value, low, high))
    return str(Estimate(value, factor * estimate.stderr, low, high, estimate.n, unit))


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf if value == 0 else math.nan
