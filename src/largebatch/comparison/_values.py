"""The numbers of each finished run by name, in the units they are compared in."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from largebatch.comparison._findings import CellRow, LookRow, StudyResult
from largebatch.results import FEWEST_SEEDS, Estimate, mean_interval, paired_difference

__all__ = ["Values", "estimated", "excludes", "negative", "paired", "per_cent", "unit_of", "values_of", "varies"]

EARLY_EPOCH = 1.0
ROUNDING = 1e-9  # of float64 in per cent of some hundred samples, and more

Values = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Cell → seed → name → value."""


def values_of(tables: StudyResult) -> Values:
    """Metrics (accuracies in %), measurements, and looks.

    Looks give "early NAME", of the look nearest to one epoch, "largest NAME", and "last NAME".
    """
    found: dict[str, dict[int, dict[str, float]]] = {}
    looks: dict[tuple[str, int], list[LookRow]] = {}
    for look in tables.looks:
        looks.setdefault((look.cell, look.seed), []).append(look)
    for run in tables.runs:
        if run.status == "finished":
            row = {name: 100 * v if name.endswith("accuracy") else v for name, v in run.metrics.items()}
            row |= {"seconds": run.seconds} | _seen(looks.get((run.cell, run.seed), []))
            found.setdefault(run.cell, {})[run.seed] = row
    for measure in tables.measurements:
        if measure.seed in found.get(measure.cell, {}):
            found[measure.cell][measure.seed][measure.key] = measure.value
    return found


def estimated(cell: CellRow, tables: StudyResult, values: Values) -> CellRow:
    """The cell with its counts, estimates and gap filled in."""
    runs = [run for run in tables.runs if run.cell == cell.name]
    counted = {status: sum(run.status == status for run in runs)
               for status in ("finished", "diverged", "failed", "missing")}  # fmt: skip
    mine = values.get(cell.name, {})
    estimates: dict[str, Estimate] = {}
    for name in sorted({name for row in mine.values() for name in row}):
        finite = [row[name] for row in mine.values() if math.isfinite(row.get(name, math.nan))]
        if finite:
            estimates[name] = mean_interval(finite, unit=unit_of(name))
    return replace(cell, **counted, estimates=estimates, gap=_gap(cell, tables, values))


def paired(values: Values, metric: str, cells: Sequence[str]) -> list[list[float]]:
    """One list for each cell, over the seeds of which all cells have a finite value."""
    by_seed = [{seed: row[metric] for seed, row in values.get(cell, {}).items() if math.isfinite(row.get(metric, math.nan))}
               for cell in cells]  # fmt: skip
    shared = sorted(set.intersection(*(set(column) for column in by_seed)))
    return [[column[seed] for seed in shared] for column in by_seed]


def excludes(estimate: Estimate, value: float) -> bool:
    """Whether the whole interval is on one side of a value; not where all seeds agree, which tells no spread."""
    return varies(estimate) and (estimate.low > value or estimate.high < value)


def varies(estimate: Estimate) -> bool:
    """Whether seeds differ by more than rounding."""
    return estimate.stderr > ROUNDING * abs(estimate.value)


def negative(estimate: Estimate) -> Estimate:
    """Of b − a, from that of a − b."""
    return replace(estimate, value=-estimate.value, low=-estimate.high, high=-estimate.low)


def per_cent(share: Estimate) -> str:
    """A share, for reading."""
    return f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def unit_of(metric: str) -> str:
    """Of a value; a difference of percentages is in points."""
    return "%" if metric.endswith("accuracy") else "s" if metric == "seconds" else ""


def _seen(looks: Sequence[LookRow]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in {name for look in looks for name in look.values}:
        seen = [(abs(look.epoch - EARLY_EPOCH), look.values[name]) for look in looks if name in look.values]
        found |= {
            f"early {name}": min(seen)[1],
            f"largest {name}": max(v for _, v in seen),
            f"last {name}": seen[-1][1],
        }
    return found


def _gap(cell: CellRow, tables: StudyResult, values: Values) -> Estimate | None:
    """Against the reference of its group."""
    reference = next((other for other in tables.cells if other.reference and other.group == cell.group), None)
    if reference is None or reference.name == cell.name:
        return None
    rows = [row for seeds in values.values() for row in seeds.values()]
    has_accuracy = all("test_accuracy" in row for row in rows)
    metric, unit = ("test_accuracy", "points") if has_accuracy else ("test_loss", "")
    better, other = paired(values, metric, [reference.name, cell.name])
    if len(better) < FEWEST_SEEDS:
        return None
    return paired_difference(better, other, unit=unit) if has_accuracy else paired_difference(other, better)
