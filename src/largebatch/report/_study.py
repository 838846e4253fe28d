"""A study as a page: the answer, the tables that carry it, the pictures, then how it was made."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from largebatch.comparison import StudyResult, read_study
from largebatch.report._cite import references, study_sources
from largebatch.report._curves import read_curves, training_figures
from largebatch.report._figures import (
    look_figures,
    path_figures,
    plane_figures,
    spectrum_figures,
)
from largebatch.report._page import Page, Section
from largebatch.report._sheet import Sheet
from largebatch.report._tables import (
    cell_sheet,
    contrast_sheet,
    lost_sheet,
    recipe_sheet,
    run_sheet,
    sharpness_sheet,
)
from largebatch.report._varied import batch_figures, switch_figures
from largebatch.results import RunFolder

__all__ = ["is_study", "study_page"]

MOST_AT_FIRST = 10  # cells shown before the reader chooses: more lines than that nobody tells apart


def is_study(folder: Path) -> bool:
    """Whether `largebatch study` works or worked in this folder."""
    return (folder / "study.json").exists() or "contrasts" in (RunFolder(folder).read("result.json") or {})


def study_page(folder: Path) -> Page:
    """The page of a study folder.

    Raises:
        ValueError: it has no result yet.
    """
    study = read_study(folder)
    return Page(
        name=study.name,
        title=f"{study.name.replace('-', ' ').capitalize()}: {study.task}",
        lead=study.question[:1].upper() + study.question[1:],
        facts=_facts(study),
        warning="" if study.complete else _warning(study),
        answer=study.answer,
        sections=[section for section in _sections(folder, study) if _holds_something(section)],
        cells=_chosen(study),
        seeds=study.seeds,
    )


def _sections(folder: Path, study: StudyResult) -> Iterable[Section]:
    groups = dict.fromkeys(cell.group for cell in study.cells)
    asked = contrast_sheet(study.contrasts, primary=True, source=study.published)
    cells = [cell_sheet(study.cells, group, study.published) for group in groups]
    yield Section("contrasts", "What was asked beforehand", sheets=_made(asked))
    yield Section("cells", "All cells", sheets=cells + _made(lost_sheet(study)))
    yield Section("curves", "Training curves", figures=training_figures(read_curves(folder, study)))
    yield Section(
        "minima", "Sharp or flat?", sheets=_made(sharpness_sheet(study)),
        figures=[*path_figures(study.paths), *plane_figures(study.planes)],
    )  # fmt: skip
    yield Section("switch", "Against the switch", figures=switch_figures(study))
    yield Section("batch", "Against the batch", figures=batch_figures(study))
    yield Section("looks", "Early in training", figures=look_figures(study.looks))
    yield Section("spectra", "Spectrum of the Hessian", figures=spectrum_figures(study.spectra))
    yield Section(
        "exploratory",
        "Exploratory comparisons",
        sheets=_made(contrast_sheet(study.contrasts, primary=False, source=study.published)),
    )
    yield Section("limits", "Limits and remarks", points=study.notes)
    yield Section(
        "provenance",
        "How it was made",
        facts=_provenance(study),
        sheets=[recipe_sheet({cell.name: cell.recipe for cell in study.cells}), run_sheet(study)],
    )
    yield Section("references", "References of the methods used", references=references(study_sources(study)))


def _holds_something(section: Section) -> bool:
    return any([section.points, section.facts, section.sheets, section.figures, section.references])


def _made(item: Sheet | None) -> list[Sheet]:
    return [] if item is None else [item]


def _facts(study: StudyResult) -> str:
    ended = Counter(run.status for run in study.runs)
    told = ", ".join(f"{number} {status}" for status, number in ended.items())
    seeds = f"{len(study.seeds)} seed{'' if len(study.seeds) == 1 else 's'}"
    return f"{len(study.cells)} cells × {seeds}: {told or 'no runs'}; {_hours(study.seconds)} of computing"


def _warning(study: StudyResult) -> str:
    of = {status: sum(run.status == status for run in study.runs) for status in ("missing", "failed")}
    words = {"missing": "are still to be trained", "failed": "failed, and are tried again"}
    told = [f"{number} of {len(study.runs)} runs {words[status]}" for status, number in of.items() if number]
    still = "; ".join(told) or "some are still to be measured"
    return f"Provisional: {still}. The same command goes on with the study."


def _provenance(study: StudyResult) -> dict[str, str]:
    return {
        "command": study.command,
        "seeds": ", ".join(map(str, study.seeds)),
        **study.versions,
        "computing time": f"{_hours(study.seconds)}, runs and measurements together",
    }


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _chosen(study: StudyResult) -> dict[str, bool]:
    """Cells in the order of colours, those that are shown at first before the others."""
    names = [cell.name for cell in study.cells]
    asked = {name for row in study.contrasts if row.primary for name in (row.a, row.b)}
    asked |= {cell.name for cell in study.cells if cell.reference} | {
        name for row in study.paths for name in (row.a, row.b)
    }
    first = names if len(names) <= MOST_AT_FIRST else [name for name in names if name in asked]
    first = first or names
    return {name: name in first[:MOST_AT_FIRST] for name in sorted(names, key=lambda name: name not in first)}
