"""A diagnosis as a page: the verdict, each hypothesis with its evidence, sharpness by every measure, curves and paths."""

from collections.abc import Iterable
from pathlib import Path

from largebatch.comparison import PathRow, measure_name
from largebatch.diagnose import HYPOTHESES, Diagnosis, RunRecord, redo
from largebatch.report._cite import STUDENT, references, sharpness_sources
from largebatch.report._curves import curve, training_figures
from largebatch.report._figures import path_figures
from largebatch.report._page import Page, Section
from largebatch.report._sheet import Entry, Scale, Sheet
from largebatch.results import read_json

__all__ = ["diagnosis_page", "is_diagnosis"]

KESKAR, FRANKLE = "Keskar et al. 2017, arXiv 1609.04836", "Frankle et al. 2020, arXiv 1912.05671"


def is_diagnosis(folder: Path) -> bool:
    """Whether `largebatch diagnose` left its evidence in this folder."""
    return (folder / "runs.json").exists()


def diagnosis_page(folder: Path) -> Page:
    """The page of a diagnosis' folder. It is judged anew from what was measured."""
    found = redo(folder)
    held = read_json(folder / "runs.json")
    small, large = f"batch {found.small_batch_size}", f"batch {found.large_batch_size}"
    runs = [
        (name, RunRecord.from_json(row)) for name, side in ((small, "small"), (large, "large")) for row in held[side]
    ]
    paths = [path_figures([PathRow(small, large, 0, path)], kind) for kind, path in found.paths.items()]
    curves = [curve(name, run.seed, run.status, _log(run)) for name, run in runs]
    sheets = [_sharpness(found)] if found.sharpness else []
    sections = [
        Section("hypotheses", "Each hypothesis", sheets=[_hypotheses(found)]),
        Section("curves", "Training curves", figures=training_figures(curves)),
        Section("minima", "Sharp or flat?", sheets=sheets, figures=[figure for made in paths for figure in made]),
        Section("limits", "Limits", points=found.notes),
        Section("provenance", "How it was made", sheets=[_runs(runs)]),
        Section("references", "References of the methods used", references=references(_sources(found))),
    ]
    return Page(
        name=folder.resolve().name, title=f"{found.task}: {small} against {large}", lead="Why is the large batch worse?",
        facts=f"{len(found.small)} runs against {len(found.large)}", warning="", answer=(found.sentence(),),
        sections=[s for s in sections if s.points or s.sheets or s.figures or s.references],
        cells={small: True, large: True}, seeds=sorted({run.seed for _, run in runs}),
    )  # fmt: skip


def _hypotheses(found: Diagnosis) -> Sheet:
    rows = [
        [Entry(HYPOTHESES[v.name]), Entry(v.verdict), Entry(v.estimate), Entry(v.unit or None), Entry(v.n),
         Entry(v.evidence), Entry(v.advice)]
        for v in found.hypotheses
    ]  # fmt: skip
    caption = f"Gap: test error, large − small, {found.gap}. Effects with their 95 % t-intervals over seeds."
    columns = ["the large batch", "verdict", "effect", "unit", "seeds", "evidence", "what to try"]
    return Sheet("hypotheses", caption, columns, rows)


def _sharpness(found: Diagnosis) -> Sheet:
    scale = Scale.of(found.sharpness.values(), ratio=True)
    rows = [[Entry(measure_name(name), code=name), Entry(ratio, sketch=scale.sketch(ratio))]
            for name, ratio in found.sharpness.items()]  # fmt: skip
    return Sheet("sharpness", "Large ÷ small, with 95 % t-intervals; statistics are those of batch norm.",
                 ["measure", "large ÷ small"], rows)  # fmt: skip


def _runs(runs: list[tuple[str, RunRecord]]) -> Sheet:
    rows = [[Entry(name, cell=name), run.name, str(run.seed), Entry(run.status, run.reason), run.updates, run.digest]
            for name, run in runs]  # fmt: skip
    return Sheet("runs", "Runs.", ["batch", "folder", "seed", "status", "updates", "digest"], rows)


def _log(run: RunRecord) -> list[dict]:
    """Its rows in the order they were written."""
    rows = [{"kind": "update", **row} for row in run.steps] + [{"kind": "epoch", **row} for row in run.epochs]
    return sorted(rows, key=lambda row: (row.get("phase", 0), row["samples"]))


def _sources(found: Diagnosis) -> Iterable[str]:
    yield from (STUDENT, KESKAR)
    yield from sharpness_sources(row.name for row in found.measurements)
    if found.paths:
        yield FRANKLE
