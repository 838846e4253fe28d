"""Fair learning rates: a small logarithmic grid for each cell, judged on a validation split, never on the test set.

Shallue et al. 2019 (arXiv 1811.03600) find that the best rate follows no rule over workloads, so a comparison at untuned
rates compares the tuning too. Each cell tries its own rate times 1/4 to 4 on the training data without a tenth, which is the
validation split where the task has none of its own; the chosen rate then trains on all of the training data.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

from largebatch.comparison import Cell, Measures, Study, StudyResult, Subject
from largebatch.recipe import Recipe

__all__ = ["tune_rates"]

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
VALIDATION_SHARE = 0.1
SEED = 1000  # none that a study uses, so that no cell is judged by the luck it was chosen for
NOTHING = Measures(look_epochs=(), look_shares=(1.0,), curvature_epochs=(), curvature_shares=(), look_samples=1)


def tune_rates(study: Study, run: Callable[[Study], StudyResult]) -> Study:
    """The study with every cell at the best rate of its grid.

    Args:
        run: how a study is run; it is given one of all cells × rates.
    """
    cells = {
        (cell.name, factor): Cell(
            f"{cell.name}, rate × {factor:g}", scaled(cell.recipe, factor), subject=_held_out(study.subject_of(cell))
        )
        for cell in study.cells
        for factor in FACTORS
    }
    grid = Study(
        f"{study.name}-rates", study.subject, tuple(cells.values()), (SEED,), measures=NOTHING,
        question="which rate is best on validation data?", answer=lambda tables: (),
    )  # fmt: skip
    found = run(grid)
    chosen = {cell.name: _best(found, {f: cells[cell.name, f].name for f in FACTORS}) for cell in study.cells}
    edges = [name for name, factor in chosen.items() if factor in (FACTORS[0], FACTORS[-1])]
    told = ", ".join(f"{name} × {factor:g}" for name, factor in chosen.items())
    notes = [f"rates tuned on validation data, one seed, by factors of {', '.join(f'{f:g}' for f in FACTORS)}: {told}"]
    notes += [f"best rate at the edge of the grid: {', '.join(edges)}"] if edges else []
    tuned = tuple(replace(cell, recipe=scaled(cell.recipe, chosen[cell.name])) for cell in study.cells)
    return replace(study, cells=tuned, notes=(*study.notes, *notes))


def scaled(recipe: Recipe, factor: float) -> Recipe:
    """All rates of the recipe, its warmup and later phases, times a factor."""
    warmup = replace(recipe.warmup, start_lr=recipe.warmup.start_lr * factor)
    then = recipe.then and replace(recipe.then, recipe=scaled(recipe.then.recipe, factor))
    return recipe.replace(lr=recipe.lr * factor, warmup=warmup, then=then) if factor != 1 else recipe


def _held_out(subject: Subject) -> Subject:
    return subject if subject.load().validation is not None else replace(subject, validation=VALIDATION_SHARE)


def _best(found: StudyResult, names: dict[float, str]) -> float:
    """The factor with the highest validation accuracy, or lowest loss; 1 where no run finished."""
    scores: dict[float, float] = {}
    for factor, name in names.items():
        rows = [row.metrics for row in found.runs if row.cell == name and row.status == "finished"]
        if rows:
            scores[factor] = fmean(m.get("validation_accuracy", -m["validation_loss"]) for m in rows)
    # Of equal ones the nearest to the recipe's own.
    return max(scores, key=lambda factor: (scores[factor], -abs(math.log(factor))), default=1.0)
