"""A plan: what a target costs on each number of workers, and beyond which number a doubling saves too little."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from largebatch.plan._arrays import Integers
from largebatch.results import Cell, Column, Result, Table

__all__ = ["Plan", "PlanRow", "doublings"]

_SHOWN = 40


@final
@dataclass(frozen=True)
class PlanRow(Result):
    """What one number of workers costs.

    Args:
        workers, global_batch_size: W, and B in samples.
        step_seconds: of one update.
        efficiency: samples a second and worker, as a share of those of one worker alone.
        samples_to_target: at this batch.
        hours, hours_low, hours_high: to the target, and the interval of one run.
        worker_hours: workers × hours.
        price: of them; None where no price was given.
        doubling_saves: the share of the hours that twice the workers would save; negative where they take longer.
        best: no other row takes fewer hours without more worker-hours.
    """

    workers: int
    global_batch_size: int
    step_seconds: float
    efficiency: float
    samples_to_target: float
    hours: float
    hours_low: float
    hours_high: float
    worker_hours: float
    price: float | None
    doubling_saves: float
    best: bool


@final
@dataclass(frozen=True, eq=False)
class Plan(Result):
    """The cost of a target on each number of workers. Kept by columns, since there may be a million rows.

    Args:
        columns: the fields of `PlanRow`, each an array as long as there are rows.
        stop_at: workers beyond which a doubling saves too little; `stop_at_low` and `stop_at_high` at the ends of B_crit.
        rule: by which `stop_at` was found, in words.
        notes: what limits the plan, and what was assumed.
    """

    columns: Mapping[str, NDArray[Any]]
    stop_at: int
    stop_at_low: int
    stop_at_high: int
    rule: str
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[PlanRow, ...]:
        """Row by row."""
        return tuple(self._rows(np.arange(len(self.columns["workers"]))))

    @property
    def front(self) -> tuple[PlanRow, ...]:
        """The Pareto front: rows that no other beats in both hours and worker-hours."""
        return tuple(self._rows(np.flatnonzero(self.columns["best"])))

    def row(self, workers: int) -> PlanRow:
        """The row of so many workers.

        Raises:
            ValueError: there is none.
        """
        asked = self.columns["workers"].tolist()
        if workers not in asked:
            raise ValueError(
                f"plan: expected one of the {len(asked)} numbers of workers asked about, got {workers}; plan it too"
            )
        return next(self._rows(np.array([asked.index(workers)])))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def to_json(self) -> dict[str, Any]:
        """With `rows` in place of the columns."""
        rows = [row.to_json() for row in self.rows]
        ends = {"stop_at_low": self.stop_at_low, "stop_at_high": self.stop_at_high}
        return {"rows": rows, "stop_at": self.stop_at, **ends, "rule": self.rule, "notes": list(self.notes)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The plan `to_json` wrote.

        Raises:
            ValueError: with every field that is unknown or missing.
        """
        rest = {name: value for name, value in data.items() if name != "rows"}
        rows = [PlanRow.from_json(row) for row in data.get("rows", ())]
        columns = {name: np.array([getattr(row, name) for row in rows]) for name in PlanRow.__dataclass_fields__}
        return super().from_json({"columns": columns, **rest})

    def text(self) -> str:
        """The table and what it says, for a terminal; of a long plan the doublings."""
        rows = self.shown(_SHOWN)
        heads = [
            Column("workers"),
            Column("batch"),
            Column("step", "s"),
            Column("efficiency", "%", ".1f"),
            Column("samples to target"),
            Column("time", "h"),
            Column("low", "h"),
            Column("high", "h"),
            Column("worker-hours", "h"),
            Column("price"),
            Column("next doubling saves", "%", ".1f"),
            Column("best"),
        ]
        table = [_cells(row) for row in rows]
        stop = f"stop at {self.stop_at} workers [{self.stop_at_low}, {self.stop_at_high}]: {self.rule}"
        return "\n".join([Table(heads, table).text(), stop, *self.notes])

    def shown(self, most: int) -> tuple[PlanRow, ...]:
        """All rows, or of a plan with more than `most` its doublings and where to stop."""
        return self.rows if len(self.columns["workers"]) <= most else tuple(self._rows(self._doublings()))

    def _rows(self, indices: Integers) -> Iterator[PlanRow]:
        columns = [column[indices].tolist() for column in self.columns.values()]
        for values in zip(*columns, strict=True):
            yield PlanRow(**dict(zip(self.columns, values, strict=True)))

    def _doublings(self) -> Integers:
        """The rows nearest to doublings of the first, and the last."""
        workers = self.columns["workers"]
        wanted = (*doublings(int(workers[0]), int(workers[-1])), self.stop_at)
        return np.unique([np.abs(workers - w).argmin() for w in wanted])


def doublings(first: int, last: int) -> tuple[int, ...]:
    """`first`, twice that, and so on, and `last`: what `first..last` stands for on the command line."""
    numbers: list[int] = []
    while first < last:
        numbers.append(first)
        first *= 2
    return (*numbers, last)


def _cells(row: PlanRow) -> list[Cell]:
    return [
        row.workers,
        row.global_batch_size,
        row.step_seconds,
        100 * row.efficiency,
        row.samples_to_target,
        row.hours,
        row.hours_low,
        row.hours_high,
        row.worker_hours,
        row.price,
        100 * row.doubling_saves,
        row.best,
    ]
