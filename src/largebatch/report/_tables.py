"""A study's tables for reading: contrasts, cells, sharpness by each metric, recipes, runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from largebatch.comparison import CellRow, ContrastRow, StudyResult, measure_name, published_of
from largebatch.report._figures import measured
from largebatch.report._sheet import Entry, Scale, Sheet
from largebatch.results import Column

__all__ = ["cell_sheet", "contrast_sheet", "lost_sheet", "recipe_sheet", "run_sheet", "sharpness_sheet"]

SIGNS = {"difference": "−", "non-inferiority": "−", "ratio": "÷", "share": "share of the gap closed", "slope": "against",
         "correlation": "rank correlation"}  # fmt: skip
FOLDED_FROM = 12  # rows of exploratory contrasts


def contrast_sheet(rows: Sequence[ContrastRow], *, primary: bool, source: str = "") -> Sheet | None:
    """Those named beforehand, or the others; None where there are none. `source` is that of published figures."""
    told = [row for row in rows if row.primary == primary]
    if not told:
        return None
    scales = {kind: Scale.of([row.shown for row in told if _scale_of(row) == kind], ratio=kind[0] == "ratio")
              for kind in {_scale_of(row) for row in told}}  # fmt: skip
    columns = ["contrast", "estimate [95 % interval]", "unit", "published", "compared", "verdict", "p"]
    columns += ["p by Holm", "seeds that would settle it"] if primary else ["seeds that would settle it"]
    caption = (
        f"{len(told)} contrasts named beforehand; p corrected by Holm over all of them."
        if primary
        else "Exploratory: each interval stands for itself, and nothing corrects for their number."
    )
    entries: list[list[Entry]] = []
    for row in told:
        estimate = row.shown
        entry = Entry(estimate, estimate.note, scales[_scale_of(row)].sketch(estimate))
        ps = [Entry(_p(row.p)), Entry(_p(row.p_holm))] if primary else [Entry(_p(row.p))]
        settles = Entry(None if row.seeds_needed is None else f"about {row.seeds_needed}")
        verdict = Entry(row.verdict, "" if row.margin is None else f"margin {row.margin:g} {row.estimate.unit}")
        entries.append(
            [Entry(row.name, row.question), entry, Entry(estimate.unit or None), Entry(row.published or None),
             Entry(_compared(row)), verdict, *ps, settles]
        )  # fmt: skip
    key = "contrasts" if primary else "exploratory"
    caption += _published(source, any(row.published for row in told))
    return Sheet(key, caption, columns, entries, folded=not primary and len(told) >= FOLDED_FROM).trimmed()


def cell_sheet(cells: Sequence[CellRow], group: str, source: str = "") -> Sheet:
    """The cells of one group with their gaps. `source` is that of published figures."""
    told = [cell for cell in cells if cell.group == group]
    has_accuracy = any("test_accuracy" in cell.estimates for cell in told)
    metric, unit = ("test_accuracy", "%") if has_accuracy else ("test_loss", "")
    scale = Scale.of([cell.gap for cell in told if cell.gap is not None])
    columns = [
        "cell", Column("batch"), Column(metric.replace("_", " "), unit), "published",
        Column("gap to the reference", "points" if has_accuracy else ""), "train loss", "optimizer", Column("rate"),
        "warmup", "ghost batch", "budget", Column("updates"), Column("gradients", "10⁶ samples", ".3g"), "runs",
    ]  # fmt: skip
    rows: list[list[Entry]] = []
    for cell in told:
        gap = None if cell.gap is None else scale.sketch(cell.gap)
        rows.append([
            Entry(cell.name, _about(cell), cell=cell.name),
            Entry(cell.global_batch_size), Entry(cell.estimates.get(metric)), Entry(published_of(cell, metric)),
            Entry("reference" if cell.reference and cell.gap is None else cell.gap, sketch=gap),
            Entry(cell.estimates.get("train_loss")), Entry(cell.optimizer), Entry(float(cell.lr)),
            Entry(_warmup(cell.warmup)),
            Entry("whole batch" if cell.ghost_batch_size is None else cell.ghost_batch_size), Entry(cell.budget or None),
            Entry(cell.updates), Entry(float(cell.gradient_cost)), Entry(_counted(cell)),
        ])  # fmt: skip
    name = f"{group}: " if group else ""
    task = ", ".join(dict.fromkeys(cell.task for cell in told))
    caption = f"{name}{task}. Means over finished seeds with 95 % t-intervals; gaps are paired by seed."
    caption += _published(source, any(published_of(cell, metric) for cell in told))
    return Sheet(f"cells-{list(dict.fromkeys(c.group for c in cells)).index(group)}", caption, columns, rows).trimmed()


def sharpness_sheet(study: StudyResult) -> Sheet | None:
    """One row for each measure, one column for each cell that was measured; None where none was."""
    table, keys = study.sharpness_table(), measured(study)
    if not table.rows:
        return None
    unchanged = {row.key: row.unchanged_by for row in study.measurements}
    rows = [
        [Entry(row[0], code=key), *row[1:], unchanged[key] or None] for key, row in zip(keys, table.rows, strict=True)
    ]
    caption = "At the end of runs, means over seeds with 95 % t-intervals; statistics are those of batch norm."
    caption += _published(study.published, any("published" in str(column) for column in table.columns))
    return Sheet("sharpness", caption, [*table.columns, "unchanged by"], rows).trimmed()


def recipe_sheet(recipes: Mapping[str, Mapping[str, Any]], *, folded: bool = True) -> Sheet:
    """What each changes in the recipe it comes from, by which rule, from which source.

    Args:
        recipes: as JSON, by the name of their cell.
    """
    rows: list[list[Entry]] = []
    for name, recipe in recipes.items():
        changes = recipe.get("changes") or [None]
        for i, change in enumerate(changes):
            first = Entry(name, cell=name) if i == 0 else Entry("")
            told = ["nothing", None, None, None, None] if change is None else [
                str(change.get(field, "")) for field in ("field", "before", "after", "rule", "source")
            ]  # fmt: skip
            rows.append([first, *map(Entry, told)])
    caption = (
        "Recipes: what differs from the one tuned, and on whose authority. recipe.json of each run has all fields."
    )
    return Sheet("recipes", caption, ["cell", "field", "before", "after", "rule", "source"], rows, folded)


def run_sheet(study: StudyResult) -> Sheet:
    """Every run with its seed and folder."""
    has_accuracy = any("test_accuracy" in run.metrics for run in study.runs)
    metric = "test_accuracy" if has_accuracy else "test_loss"
    columns = ["cell", "seed", "status", Column("updates"), Column("samples"), Column("time", "s", ".3g"),
               Column(metric.replace("_", " "), "%" if has_accuracy else ""), "train loss", "folder"]  # fmt: skip
    rows = [
        [Entry(run.cell, cell=run.cell), Entry(str(run.seed)), Entry(run.status, run.reason), Entry(run.updates),
         Entry(run.samples), Entry(run.seconds),
         Entry((100.0 if has_accuracy else 1.0) * run.metrics.get(metric, math.nan)),
         Entry(run.metrics.get("train_loss", math.nan)), Entry(run.folder or run.digest)]
        for run in study.runs
    ]  # fmt: skip
    return Sheet("runs", f"All {len(rows)} runs.", columns, rows, folded=True)


def lost_sheet(study: StudyResult) -> Sheet | None:
    """Runs that did not end well, with their reasons; None where all did."""
    lost = [run for run in study.runs if run.status in ("diverged", "failed")]
    if not lost:
        return None
    rows = [
        [Entry(run.cell, cell=run.cell), Entry(str(run.seed)), Entry(run.status), Entry(run.reason)] for run in lost
    ]
    caption = "Runs that did not end well. They have no part in the means above: read the columns of runs beside them."
    return Sheet("lost", caption, ["cell", "seed", "status", "reason"], rows)


def _published(source: str, is_shown: bool) -> str:
    return f" Published: {source}." if source and is_shown else ""


def _scale_of(row: ContrastRow) -> tuple[str, str]:
    """Contrasts of one kind, in one unit, are drawn to one scale."""
    return ("difference" if row.kind == "non-inferiority" else row.kind, row.estimate.unit or row.metric)


def _compared(row: ContrastRow) -> str:
    metric = measure_name(row.metric)
    if row.kind == "share":
        return f"{metric}: what {row.a} closes, from {row.b}"
    if not row.a or not row.b:
        return metric
    return f"{metric}: {row.a} {SIGNS.get(row.kind, row.kind)} {row.b}"


def _about(cell: CellRow) -> str:
    is_told = not cell.reference or "reference" in cell.about
    return cell.about if is_told else f"{cell.about} (reference)".strip()


def _warmup(text: str) -> str:
    """A recipe's own words, for reading: "gradual: 5ep, from 0.05, at most 0.2dur"."""
    kind, _, rest = text.rstrip(")").partition("(")
    rest = rest.replace(",", ", ").replace("start_lr=", "from ").replace("at_most=", "at most ")
    return f"{kind}: {rest}" if rest else kind


def _p(p: float) -> str | None:
    if math.isnan(p):
        return None
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def _counted(cell: CellRow) -> str:
    parts = [
        (cell.finished, "finished"),
        (cell.diverged, "diverged"),
        (cell.failed, "failed"),
        (cell.missing, "missing"),
    ]
    return ", ".join(f"{number} {name}" for number, name in parts if number) or "none"
