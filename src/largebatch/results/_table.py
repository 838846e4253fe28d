"""One table, three spellings: aligned text for a terminal, Markdown for a README, CSV for other programs."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from largebatch.results._result import Estimate

__all__ = ["Cell", "Column", "Table"]

Cell = str | float | int | bool | Estimate | None
"""None is a value that does not exist: a dash in text, nothing in CSV."""


@dataclass(frozen=True)
class Column:
    """The head of a column.

    Args:
        name: what it holds.
        unit: shown in the head, for example "s"; "" for none.
        format: of floats, as in `format(value, ".4g")`.
    """

    name: str
    unit: str = ""
    format: str = ".4g"

    def __str__(self) -> str:
        return f"{self.name} [{self.unit}]" if self.unit else self.name


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Args:
        columns: a text stands for `Column(text)`.
        rows: each as long as there are columns.

    Raises:
        ValueError: with every row of another length.
    """

    columns: Sequence[str | Column]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        wrong = [f"row {i} has {len(row)}" for i, row in enumerate(self.rows) if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(
                f"table: expected {len(self.columns)} cells in every row, got: {', '.join(wrong)}; fill with None"
            )

    def text(self) -> str:
        """Aligned for a terminal: numbers to the right, texts to the left."""
        shown = self._shown()
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        rule = ["-" * width for width in widths]
        right = self._numeric()
        lines = [
            "  ".join(
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(row, widths, right, strict=True)
            )
            for row in (shown[0], rule, *shown[1:])
        ]
        return "\n".join(line.rstrip() for line in lines)

    def markdown(self) -> str:
        """A Markdown table, numbers to the right."""
        head, *body = [[cell.replace("|", "\\|") for cell in row] for row in self._shown()]
        rule = ["---:" if to_right else "---" for to_right in self._numeric()]
        return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))

    def csv(self) -> str:
        """Every digit, lines ended by a newline; an Estimate takes three columns: value, low and high."""
        spread = [any(isinstance(row[i], Estimate) for row in self.rows) for i in range(len(self.columns))]
        head = [
            name
            for column, is_estimate in zip(self._heads(), spread, strict=True)
            for name in ([str(column), f"{column} low", f"{column} high"] if is_estimate else [str(column)])
        ]
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        for row in self.rows:
            writer.writerow([value for cell, wide in zip(row, spread, strict=True) for value in _values(cell, wide)])
        return file.getvalue()

    def _heads(self) -> list[Column]:
        return [Column(column) if isinstance(column, str) else column for column in self.columns]

    def _shown(self) -> list[list[str]]:
        heads = self._heads()
        body = [[_shown(cell, head.format) for cell, head in zip(row, heads, strict=True)] for row in self.rows]
        return [[str(head) for head in heads], *body]

    def _numeric(self) -> list[bool]:
        """Which columns hold numbers and nothing else."""
        cells = [[row[i] for row in self.rows if row[i] is not None] for i in range(len(self.columns))]
        return [bool(column) and all(_is_number(cell) for cell in column) for column in cells]


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float | Estimate) and not isinstance(cell, bool)


def _shown(cell: Cell, form: str) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return format(cell, form) if isinstance(cell, float) and not math.isnan(cell) else str(cell)


def _values(cell: Cell, wide: bool) -> list[object]:
    """The CSV cells of one cell."""
    if isinstance(cell, Estimate):
        return [cell.value, cell.low, cell.high]
    return [cell, None, None] if wide else [cell]
