"""Studies as pages in docs/results: what was found, what was not run, and every command, seed and version.

python benchmarks/study_results.py open-question studies/open-question-digits-mlp runs/f1-10k …
"""

import argparse
from itertools import pairwise
from pathlib import Path

from path_figure import picture

from largebatch.results import Cell, Table
from largebatch.study import StudyResult, read_study

RESULTS = Path("docs/results")
SHARPNESS = ("metric_2_1_ascent", "lambda_max", "trace", "asam", "adaptive_linf")


def page(name: str, folders: list[Path]) -> str:
    """All studies of one page."""
    studies = [(folder, read_study(folder)) for folder in folders]
    parts = [section(name, number, study) for number, (_, study) in enumerate(studies)]
    return "\n\n".join([f"# {name.replace('-', ' ').capitalize()}", *parts]) + "\n"


def section(name: str, number: int, study: StudyResult) -> str:
    """One study."""
    ended = sum(row.status in ("finished", "diverged") for row in study.runs)
    state = "complete" if study.complete else f"**not complete: {ended} of {len(study.runs)} runs**"
    versions = ", ".join(f"{key} {value}" for key, value in study.versions.items() if key != "platform")
    parts = [
        f"## {study.task}",
        f"{study.question[0].upper()}{study.question[1:]}. {len(study.cells)} cells, seeds "
        f"{', '.join(map(str, study.seeds))}; {state}. {versions}; {study.seconds / 3600:.2g} hours of one thread. Made by",
        f"    {study.command}",
        *(f"* {sentence}" for sentence in study.answer),
        cells(study).markdown(),
        "Named beforehand, corrected by Holm:\n",
        *(f"* {row.sentence}" for row in study.contrasts if row.primary),
    ]
    sharp = sharpness(study)
    parts += (
        ["Sharpness, mean over seeds (statistics of batch norm in brackets):", sharp.markdown()] if sharp.rows else []
    )
    for row in study.paths:
        file = f"{name}-{number}-{row.b.replace(' ', '-').replace(',', '')}.svg"
        title = f"{study.task}: from {row.a} to {row.b}, seed {row.seed}"
        sizes = [cell.global_batch_size for end in (row.a, row.b) if (cell := study.cell(end)) is not None]
        (RESULTS / file).write_text(picture(row.path, title, *sizes))
        parts.append(f"![{title}]({file})")
    parts += [f"*{note}.*" for note in study.notes]
    lost = [
        f"{row.cell}, seed {row.seed}: {row.status}, {row.reason.split(';')[0]}" for row in study.runs if row.reason
    ]
    parts += ["Runs that did not end well:\n", *(f"* {text}" for text in lost)] if lost else []
    return joined(parts)


def joined(parts: list[str]) -> str:
    """Paragraphs; items of a list stand together."""
    lines = parts[0]
    for before, part in pairwise(parts):
        lines += ("\n" if before.startswith("* ") and part.startswith("* ") else "\n\n") + part
    return lines


def cells(study: StudyResult) -> Table:
    """As `StudyResult.table`, with the cost."""
    rows: list[list[Cell]] = []
    for cell in study.cells:
        found = [cell.estimates.get(name) for name in ("train_loss", "distance")]
        ended = f"{cell.finished} of {len(study.seeds)}"
        accuracy = cell.estimates.get("test_accuracy")
        rows.append(
            [cell.name, cell.global_batch_size, accuracy, cell.gap, *found, cell.updates, cell.gradient_cost, ended]
        )
    columns = ["cell", "batch", "test accuracy, %", "gap, points", "train loss", "‖x − x₀‖", "updates", "million gradients",
               "finished"]  # fmt: skip
    return Table(columns, rows)


def sharpness(study: StudyResult) -> Table:
    """Every measure of the cells that have any."""
    keys = [f"{kind} ({mode})" for mode in ("running", "batch", "none") for kind in SHARPNESS]
    chosen = [cell for cell in study.cells if any(key in cell.estimates for key in keys)]
    rows: list[list[Cell]] = [
        [key, *(cell.estimates.get(key) for cell in chosen)] for key in keys if any(key in c.estimates for c in chosen)
    ]
    return Table(["measure", *(cell.name for cell in chosen)], rows)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="A page in docs/results from the folders of studies.")
    parser.add_argument("name")
    parser.add_argument("folders", nargs="+", type=Path)
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{arguments.name}.md").write_text(page(arguments.name, arguments.folders))


if __name__ == "__main__":
    main()
