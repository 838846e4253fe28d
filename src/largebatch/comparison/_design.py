"""The design of a study: cells × seeds, what is measured of them, and which comparisons were named beforehand.

A cell is a recipe. The primary contrasts are named before anything is trained, and few (at most five), because each further
question widens the intervals of all (Holm 1979); whatever else is compared is exploratory, and says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from largebatch.comparison._subject import Subject
from largebatch.recipe import Recipe
from largebatch.results import Result

if TYPE_CHECKING:
    from largebatch.comparison._findings import StudyResult

__all__ = ["MOST_PRIMARY", "Cell", "Contrast", "Measures", "Published", "Study"]

MOST_PRIMARY = 5

Answer = Callable[["StudyResult"], tuple[str, ...]]
"""What a study says at the end, from its tables alone."""


@dataclass(frozen=True)
class Published(Result):
    """A paper's own figure, which stands beside ours.

    Args:
        metric: of a run or its measurements; of measurements without brackets where the paper does not say whose
            batch-norm statistics.
        value, deviation: mean and standard deviation over the paper's runs, in the metric's unit.
    """

    metric: str
    value: float
    deviation: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.deviation:.2f}"


@dataclass(frozen=True)
class Cell:
    """One recipe of a study.

    Args:
        name: unique in the study.
        recipe: how it is trained.
        about: what it asks, in a few words.
        subject: None: the study's own.
        group: cells of one group are compared with one another.
        reference: gaps of its group are taken against this cell.
        measures: at the end of every run: "sharpness", "linear rule"; others come from training anyway.
        published: a paper's figures of this cell.
    """

    name: str
    recipe: Recipe
    about: str = ""
    subject: Subject | None = None
    group: str = "network"
    reference: bool = False
    measures: tuple[Literal["sharpness", "linear rule"], ...] = ()
    published: tuple[Published, ...] = ()


@dataclass(frozen=True)
class Contrast(Result):
    """A comparison of cells, paired by seed.

    Args:
        name: unique in the study.
        question: in words.
        kind: "difference" a − b; "non-inferiority" of a to b within `margin`; "ratio" a ÷ b of positive numbers; "share":
            how much of the gap from b to `base` a closes, (a − b) ÷ (base − b); "correlation" over `cells`, by rank,
            between `metric` and `against`; "break point" of `metric` over `cells`, whose names end with their batch.
        a, b, base: names of cells.
        metric: of a run, such as "test_accuracy" (in points) or "train_loss", or of its measurements, such as
            "metric_2_1 (running)".
        margin: of non-inferiority, in the metric's unit.
        primary: named beforehand, and corrected for one another.
        published: what a paper found, in words.
    """

    name: str
    question: str
    a: str = ""
    b: str = ""
    base: str = ""
    kind: Literal["difference", "non-inferiority", "ratio", "share", "correlation", "break point"] = "difference"
    metric: str = "test_accuracy"
    margin: float | None = None
    primary: bool = False
    cells: tuple[str, ...] = ()
    against: str = ""
    published: str = ""


@dataclass(frozen=True)
class Measures(Result):
    """What is measured, and on how much.

    Args:
        look_epochs, look_shares: when to look during training: after so many epochs, and at these shares of the run.
        curvature_epochs, curvature_shares: of these, the looks that also find λ_max.
        look_samples: of the training data, for gradients; all where it has no more.
        curvature_samples: of the training data, for λ_max.
        sharpness: kinds in `diagnose.SHARPNESS`.
        sharpness_samples: of the training data, for sharpness, planes and spectra.
        linear_rule_k: small steps in one large step.
        paths: pairs of cells joined by a line, for the first seed.
        planes, spectra: cells of which they are made, for the first seed.
    """

    look_epochs: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    look_shares: tuple[float, ...] = (0.5, 1.0)
    curvature_epochs: tuple[float, ...] = (0.0, 1.0, 2.0)
    curvature_shares: tuple[float, ...] = (1.0,)
    look_samples: int = 4096
    curvature_samples: int = 1024
    sharpness: tuple[str, ...] = ("metric_2_1_ascent", "lambda_max", "trace", "asam", "adaptive_linf")
    sharpness_samples: int = 1024
    linear_rule_k: int = 0
    paths: tuple[tuple[str, str], ...] = ()
    planes: tuple[str, ...] = ()
    spectra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """Cells × seeds, and what is asked of them.

    Args:
        name: for its folder.
        subject: what the cells train; a text stands for `Subject(text)`.
        cells: in the order of the table.
        seeds: every cell is trained with each; equal seeds share initial weights and the order of the data.
        contrasts: what is compared; at most five primary ones.
        question: in one sentence.
        measures: what is measured besides accuracy and loss.
        answer: sentences for the end; None: one for each primary contrast.
        notes: what a reader should know.
        references: of the methods used.
        published: whose the published figures are: data, tables, source.

    Raises:
        ValueError: with every mistake.
    """

    name: str
    subject: Subject
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    contrasts: tuple[Contrast, ...] = ()
    question: str = ""
    measures: Measures = field(default_factory=Measures)
    answer: Answer | None = None
    notes: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    published: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.subject, str):
            object.__setattr__(self, "subject", Subject(self.subject))
        mistakes = _mistakes(self)
        if mistakes:
            raise ValueError("\n  ".join([f"study {self.name}: {len(mistakes)} mistake(s)", *mistakes]))

    def with_seeds(self, number: int) -> "Study":
        """The same study with seeds 0 to number − 1."""
        return replace(self, seeds=tuple(range(number)))

    def without(self, *parts: str) -> "Study":
        """The same study without the cells whose names contain any of `parts`, and without what is asked of them."""
        cells = tuple(cell for cell in self.cells if not any(part in cell.name for part in parts))
        left = {cell.name for cell in cells}
        contrasts = tuple(
            contrast
            for contrast in (replace(c, cells=tuple(n for n in c.cells if n in left)) for c in self.contrasts)
            if not _contrast_mistakes(contrast, left)
        )
        measures = replace(
            self.measures, paths=tuple(pair for pair in self.measures.paths if left.issuperset(pair)),
            planes=tuple(name for name in self.measures.planes if name in left),
            spectra=tuple(name for name in self.measures.spectra if name in left),
        )  # fmt: skip
        return replace(self, cells=cells, contrasts=contrasts, measures=measures)

    def cell(self, name: str) -> Cell:
        """The cell of that name."""
        return next(cell for cell in self.cells if cell.name == name)

    def subject_of(self, cell: Cell) -> Subject:
        """What a cell trains."""
        return self.subject if cell.subject is None else cell.subject

    def to_json(self) -> dict[str, Any]:
        """The design, for `study.json`."""
        cells = [
            {"name": c.name, "about": c.about, "group": c.group, "reference": c.reference, "measures": list(c.measures),
             "subject": self.subject_of(c).to_json(), "recipe": c.recipe.to_json(),
             "published": [figure.to_json() for figure in c.published]}
            for c in self.cells
        ]  # fmt: skip
        return {
            "name": self.name, "question": self.question, "subject": self.subject.to_json(), "seeds": list(self.seeds),
            "cells": cells, "contrasts": [contrast.to_json() for contrast in self.contrasts],
            "measures": self.measures.to_json(), "notes": list(self.notes), "references": list(self.references),
            "published": self.published,
        }  # fmt: skip


def _mistakes(study: Study) -> list[str]:
    names = [cell.name for cell in study.cells]
    known = set(names)
    found: list[str] = []
    if not study.name or "/" in study.name:
        found.append(f"name: expected a text without '/', for a folder, got {study.name!r}")
    if not names:
        found.append("cells: expected at least one, got none")
    found += [f"cells: expected different names, got {name!r} twice" for name in known if names.count(name) > 1]
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        found.append(f"seeds: expected at least one, each once, got {list(study.seeds)}; an interval needs 3")
    groups = {cell.group for cell in study.cells if cell.reference}
    for group in sorted(groups):
        references = [cell.name for cell in study.cells if cell.reference and cell.group == group]
        if len(references) > 1:
            found.append(f"cells: expected one reference in group {group!r}, got {', '.join(references)}")
    primary = [contrast.name for contrast in study.contrasts if contrast.primary]
    if len(primary) > MOST_PRIMARY:
        found.append(
            f"contrasts: expected at most {MOST_PRIMARY} primary ones, got {len(primary)}: every further question widens "
            "all intervals; make the others exploratory (primary=False)"
        )
    for contrast in study.contrasts:
        found += [f"contrast {contrast.name!r}: {text}" for text in _contrast_mistakes(contrast, known)]
    pictured = [*study.measures.planes, *study.measures.spectra, *(n for pair in study.measures.paths for n in pair)]
    found += [f"measures: no cell {name!r}; there are {', '.join(names)}" for name in pictured if name not in known]
    return found


def _contrast_mistakes(contrast: Contrast, known: set[str]) -> Sequence[str]:
    is_over_cells = contrast.kind in ("correlation", "break point")
    needed = list(contrast.cells) if is_over_cells else [contrast.a, contrast.b]
    needed += [contrast.base] if contrast.kind == "share" else []
    found = [f"no cell {name!r}; there are {', '.join(sorted(known))}" for name in needed if name not in known]
    if is_over_cells and len(contrast.cells) < 3:
        found.append(f"cells: expected at least 3 for a {contrast.kind}, got {len(contrast.cells)}")
    if contrast.kind == "non-inferiority" and not (contrast.margin and contrast.margin > 0):
        found.append(
            f"margin: expected a number above 0, got {contrast.margin}; say beforehand how much worse would do"
        )
    return found
