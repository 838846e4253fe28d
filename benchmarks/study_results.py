"""Studies as pages in docs/results: what was found, what was not run, and every command, seed and version.

python benchmarks/study_results.py open-question studies/open-question-digits-mlp runs/f1-10k …
"""

import argparse
import re
import textwrap
from itertools import pairwise
from pathlib import Path

from path_figure import picture

from largebatch.results import Column, Table
from largebatch.study import StudyResult, read_study

RESULTS = Path("docs/results")
COLUMNS = 125  # of text; tables and pictures are one line each


def page(name: str, folders: list[Path], before: str) -> str:
    """All studies of one page; what was written by hand above the first of them in the page `before` stays."""
    written = before.partition("\n## ")[0].strip() or f"# {name.replace('-', ' ').capitalize()}"
    parts = [section(name, number, read_study(folder)) for number, folder in enumerate(folders)]
    return "\n\n".join([written, *parts]) + "\n"


def section(name: str, number: int, study: StudyResult) -> str:
    """One study."""
    ended = sum(row.status in ("finished", "diverged") for row in study.runs)
    state = "complete" if study.complete else f"**not complete: {ended} of {len(study.runs)} runs**"
    versions = ", ".join(f"{key} {value}" for key, value in study.versions.items() if key != "platform")
    end = "" if study.question.endswith("?") else "."
    parts = [
        f"## {study.task}",
        f"{study.question[0].upper()}{study.question[1:]}{end} {len(study.cells)} cells, seeds "
        f"{', '.join(map(str, study.seeds))}; {state}. {versions}; {study.seconds / 3600:.2g} hours of one thread. Made by",
        f"    {study.command}",
        *(f"* {sentence}" for sentence in study.answer),
        cells(study).markdown(),
    ]
    asked = [f"* {row.sentence}{f' Published: {row.published}.' if row.published else ''}"
             for row in study.contrasts if row.primary]  # fmt: skip
    parts += ["Named beforehand, corrected by Holm:", *asked] if asked else []
    sharp = study.sharpness_table(by_cell=True)
    parts += ["Sharpness at the end of runs, mean over seeds:", sharp.markdown()] if sharp.rows else []
    parts += [f"Published: {study.published}."] if study.published else []
    for row in study.paths:
        file = f"{name}-{number}-{re.sub('[^a-z0-9]+', '-', row.b.lower())}.svg"
        title = f"{study.task}: from {row.a} to {row.b}, seed {row.seed}"
        sizes = [cell.global_batch_size for end in (row.a, row.b) if (cell := study.cell(end)) is not None]
        (RESULTS / file).write_text(picture(row.path, title, *sizes))
        parts.append(f"![{title}]({file})")
    parts += [f"*{note}.*" for note in study.notes]
    lost = [f"{row.cell}, seed {row.seed}: {row.reason.split(';')[0]}" for row in study.runs if row.reason]
    parts += ["Runs that did not end well:", *(f"* {text}" for text in lost)] if lost else []
    return joined([wrapped(part) for part in parts])


def wrapped(part: str) -> str:
    """A paragraph or an item of a list in lines; what Markdown wants in one line as it is."""
    if part.startswith(("|", "!", "#", "    ")):
        return part
    indent = "  " if part.startswith("* ") else ""
    return textwrap.fill(part, COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def joined(parts: list[str]) -> str:
    """Paragraphs; items of a list stand together."""
    lines = parts[0]
    for before, part in pairwise(parts):
        lines += ("\n" if before.startswith("* ") and part.startswith("* ") else "\n\n") + part
    return lines


def cells(study: StudyResult) -> Table:
    """As `StudyResult.table`, with the distance and the cost."""
    table = study.table()
    more = [[cell.estimates.get("distance"), cell.gradient_cost] for cell in study.cells]
    columns = [*table.columns, "‖x − x₀‖", Column("gradients", "million")]
    return Table(columns, [[*row, *added] for row, added in zip(table.rows, more, strict=True)])


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="A page in docs/results from the folders of studies.")
    parser.add_argument("name")
    parser.add_argument("folders", nargs="+", type=Path)
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"{arguments.name}.md"
    file.write_text(page(arguments.name, arguments.folders, file.read_text() if file.exists() else ""))


if __name__ == "__main__":
    main()
