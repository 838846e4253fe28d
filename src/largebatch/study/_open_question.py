"""The open question: do Keskar's networks, trained by Goyal's recipe, still lose accuracy, and are their minima sharp?

Keskar et al. 2017 (arXiv 1609.04836) compare a small and a large batch with Adam at an untouched rate, and blame sharp
minima; Goyal et al. 2017 (arXiv 1706.02677) scale the rate of SGD with the batch, warm it up, keep the batch-norm
statistics those of 32 samples, and blame early optimisation. Hoffer et al. 2017 (arXiv 1705.08741) blame the number of
updates. Cells: optimiser {SGD, Adam} × batch {small, large, whole data set} × rate {kept, scaled} × warmup {none, constant,
gradual} × budget {equal epochs, equal updates} × statistics {whole batch, ghosts}, without those that ask nothing new; and
softmax regression on the same data, where there is one minimum and so nothing to be sharp.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from largebatch.comparison import Cell, Contrast, Measures, Study, Subject, measure_name, open_question_answer
from largebatch.recipe import Recipe
from largebatch.study._plan import total_updates
from largebatch.study._sizes import Sizes

__all__ = ["open_question"]

WHOLE_UPDATES = 1000
MARGIN_POINTS = 0.5
CONVEX_RATE = 4.0  # times the network's: without batch norm the same rate learns little in this time
GHOST = 32
SHARPNESS = ("metric_2_1_ascent", "lambda_max", "trace", "asam", "adaptive_linf")

Rate = Literal["kept", "scaled"]
Rise = Literal["none", "constant", "gradual"]
Budget = Literal["epochs", "updates"]


def open_question(
    subject: Subject,
    *,
    small: int | None = None,
    large: int | None = None,
    whole_updates: int = WHOLE_UPDATES,
    quick: bool = False,
    duration: str | None = None,
) -> Study:
    """The study for any task.

    Args:
        subject: what is trained; its task brings the SGD recipe of the small batch.
        small: batch; None: that of the recipe.
        large: batch; None: a tenth of the training data, as Keskar et al. took.
        whole_updates: at most so many updates where the batch is the whole data set.
        quick: 12 cells, sharpness of three.
        duration: of every cell at equal epochs; None: the recipe's own.

    Raises:
        ValueError: a task without a recipe, or batches that do not fit it.
    """
    sizes = Sizes.of(subject, small, large, duration)
    sgd, size = sizes.recipe, sizes.train_size
    grid = _Grid(sizes, whole_updates)
    networks = [*grid.cells()] if quick else [_with_sharpness(cell) for cell in (*grid.cells(), *grid.more())]
    cells = [*networks, *(grid.controls(subject, quick=quick) if subject.has_classes else ())]
    k = grid.large // sgd.global_batch_size
    return Study(
        name="open-question",
        subject=subject,
        cells=tuple(cells),
        contrasts=sizes.asked(_contrasts(cells, sizes.modes)),
        question=f"is the large batch worse, does Goyal's recipe win it back, and is what it finds sharp? "
        f"Batches {sgd.global_batch_size}, {grid.large} and {size} of {size} samples",
        measures=Measures(
            sharpness=SHARPNESS,
            linear_rule_k=k if k * sgd.global_batch_size <= size else 0,
            paths=(("sgd small", "sgd large kept"), ("sgd small", "sgd large scaled gradual")),
            planes=("sgd small", "sgd large kept"),
            spectra=("sgd small", "sgd large kept"),
        ),
        answer=open_question_answer,
        notes=grid.notes,
        references=(
            "Keskar et al. 2017, arXiv 1609.04836",
            "Goyal et al. 2017, arXiv 1706.02677",
            "Hoffer et al. 2017, arXiv 1705.08741",
            "McCandlish et al. 2018, arXiv 1812.06162",
            "Cohen et al. 2021, arXiv 2103.00065",
            "Kwon et al. 2021, arXiv 2102.11600",
            "Andriushchenko et al. 2023, arXiv 2302.07011",
            "Fieller 1954",
            "Holm 1979",
        ),
    )


def _with_sharpness(cell: Cell) -> Cell:
    return replace(cell, measures=tuple(dict.fromkeys((*cell.measures, "sharpness"))))


class _Grid:
    """Recipes by what they change."""

    def __init__(self, sizes: Sizes, whole_updates: int):
        sgd = sizes.recipe
        self.sgd, self.large, self.size, self._whole_updates = sgd, sizes.large, sizes.train_size, whole_updates
        ghost = min(GHOST, sgd.global_batch_size)
        self._sgd = sgd.replace(ghost_batch_size=ghost if ghost > 1 else None)
        self._adam = sizes.keskar_adam
        self.notes = (
            f"SGD: rate {sgd.lr:g} at batch {sgd.global_batch_size}, {sgd.schedule}, ghosts of {ghost}; Adam: Keskar's "
            "protocol, rate 1e-3, constant, statistics of the whole batch; no rate is tuned (--tune lr does)",
            f"softmax: {CONVEX_RATE:g} × the rate",
            f"whole data set at equal updates: at most {whole_updates} updates",
        )

    def at(
        self, optimizer: Literal["sgd", "adam"], batch: int, *, rate: Rate = "kept", rise: Rise = "none",
        budget: Budget = "epochs", ghosts: bool | None = None,
    ) -> Recipe:  # fmt: skip
        """One recipe; `ghosts` None: as the optimiser's own paper has it."""
        own = self._sgd if optimizer == "sgd" else self._adam
        warmup = {
            "none": None, "gradual": "auto", "constant": f"constant(5ep,start_lr={own.lr!r},at_most=0.2dur)",
        }[rise]  # fmt: skip
        recipe = own.at(batch, budget=budget, rule="none" if rate == "kept" else None, warmup=warmup)
        if ghosts is not None:
            recipe = recipe.replace(ghost_batch_size=min(GHOST, own.global_batch_size) if ghosts else None)
        if batch == self.size and total_updates(recipe, self.size) > self._whole_updates:
            recipe = recipe.replace(duration=f"{self._whole_updates}steps")
        return recipe

    def cells(self) -> Iterator[Cell]:
        """Networks of the quick study."""
        own, at = self.sgd.global_batch_size, self.at
        sharp = ("sharpness",)
        small = Cell(
            "sgd small", at("sgd", own), "the reference", reference=True, measures=("sharpness", "linear rule")
        )
        yield small
        yield Cell("sgd large kept", at("sgd", self.large), "nothing changed but the batch", measures=sharp)
        yield Cell("sgd large scaled", at("sgd", self.large, rate="scaled"), "linear rule alone")
        yield Cell(
            "sgd large scaled gradual",
            at("sgd", self.large, rate="scaled", rise="gradual"),
            "Goyal's recipe",
            measures=sharp,
        )
        yield Cell(
            "sgd large kept, updates", at("sgd", self.large, budget="updates"), "as many updates as the small batch"
        )
        yield Cell(
            "sgd large scaled gradual, updates", at("sgd", self.large, rate="scaled", rise="gradual", budget="updates"),
            "Goyal's recipe, as many updates",
        )  # fmt: skip
        yield Cell("sgd whole kept, updates", at("sgd", self.size, budget="updates"), "gradient descent")
        yield Cell("adam small", at("adam", own), "Keskar's small batch")
        yield Cell("adam large kept", at("adam", self.large), "Keskar's large batch")
        yield Cell(
            "adam large scaled gradual ghosts", at("adam", self.large, rate="scaled", rise="gradual", ghosts=True),
            "Keskar's large batch by Goyal's recipe (rate × √k)",
        )  # fmt: skip

    def more(self) -> Iterator[Cell]:
        """The other networks."""
        at, large, size = self.at, self.large, self.size
        yield Cell("sgd large scaled constant", at("sgd", large, rate="scaled", rise="constant"), "constant warmup")
        yield Cell(
            "sgd large kept, whole statistics", at("sgd", large, ghosts=False), "batch norm over the whole batch"
        )
        yield Cell(
            "sgd large scaled gradual, whole statistics", at("sgd", large, rate="scaled", rise="gradual", ghosts=False),
            "Goyal's recipe without ghosts",
        )  # fmt: skip
        yield Cell(
            "sgd large scaled gradual, updates, whole statistics",
            at("sgd", large, rate="scaled", rise="gradual", budget="updates", ghosts=False),
            "as many updates, without ghosts",
        )  # fmt: skip
        yield Cell("sgd whole kept", at("sgd", size), "gradient descent at equal epochs")
        yield Cell("sgd whole scaled gradual", at("sgd", size, rate="scaled", rise="gradual"), "the rule at its limit")
        yield Cell(
            "sgd whole scaled gradual, updates", at("sgd", size, rate="scaled", rise="gradual", budget="updates"),
            "the rule at its limit, more updates",
        )  # fmt: skip
        yield Cell("sgd whole kept, updates, whole statistics", at("sgd", size, budget="updates", ghosts=False),
                   "gradient descent without any noise")  # fmt: skip
        yield Cell("adam large scaled", at("adam", large, rate="scaled"), "rate × √k alone")
        yield Cell("adam large scaled gradual", at("adam", large, rate="scaled", rise="gradual"), "with warmup")
        yield Cell("adam large kept ghosts", at("adam", large, ghosts=True), "ghosts alone")
        yield Cell("adam large kept, updates", at("adam", large, budget="updates"), "as many updates")
        yield Cell(
            "adam large scaled gradual ghosts, updates",
            at("adam", large, rate="scaled", rise="gradual", budget="updates", ghosts=True), "all of it",
        )  # fmt: skip
        yield Cell(
            "adam small ghosts", at("adam", self.sgd.global_batch_size, ghosts=True), "does the small batch gain too?"
        )
        yield Cell("adam whole kept", at("adam", size), "whole data set at equal epochs")
        yield Cell("adam whole kept, updates", at("adam", size, budget="updates"), "whole data set, more updates")

    def controls(self, subject: Subject, *, quick: bool) -> Iterator[Cell]:
        """Softmax regression: a convex loss on the same data."""
        convex = replace(subject, network="softmax")
        at, large = self.at, self.large
        cells = [
            Cell("softmax small", at("sgd", self.sgd.global_batch_size), "the convex reference", reference=True),
            Cell("softmax large kept", at("sgd", large), "nothing changed but the batch"),
        ]
        if not quick:
            cells += [
                Cell("softmax large scaled gradual", at("sgd", large, rate="scaled", rise="gradual"), "Goyal's recipe"),
                Cell("softmax large kept, updates", at("sgd", large, budget="updates"), "as many updates"),
                Cell("softmax whole kept, updates", at("sgd", self.size, budget="updates"), "gradient descent"),
            ]
        for cell in cells:
            recipe = cell.recipe.replace(lr=CONVEX_RATE * cell.recipe.lr)
            yield replace(cell, recipe=recipe, subject=convex, group="convex control")


def _contrasts(cells: list[Cell], modes: Sequence[str]) -> Iterator[Contrast]:
    small, kept, goyal = "sgd small", "sgd large kept", "sgd large scaled gradual"
    yield Contrast("gap", "is the large batch worse with nothing changed?", small, kept, primary=True)
    yield Contrast("recipe", "how much does Goyal's recipe win back?", goyal, kept, small, "share", primary=True)
    yield Contrast(
        "recipe, equal updates", "is it as good as the small batch at equal updates?", f"{goyal}, updates", small,
        kind="non-inferiority", margin=MARGIN_POINTS, primary=True,
    )  # fmt: skip
    yield Contrast(
        "Keskar's protocol", "how much of Keskar's own gap does the recipe win back?", "adam large scaled gradual ghosts",
        "adam large kept", "adam small", "share", primary=True,
    )  # fmt: skip
    yield Contrast("recovered minimum", "is what the recipe finds sharper, rescalings aside?", goyal, small, kind="ratio",
                   metric=f"adaptive_linf ({modes[0]})", primary=True)  # fmt: skip
    yield Contrast("Keskar's gap", "is Keskar's large batch worse?", "adam small", "adam large kept")
    yield Contrast("kept, equal updates", "is it the number of updates?", f"{kept}, updates", kept, small, "share")
    yield Contrast("gradient descent", "what does no noise at all cost?", small, "sgd whole kept, updates")
    if any(cell.name == "softmax small" for cell in cells):
        yield Contrast(
            "convex gap", "is there a gap where there is one minimum?", "softmax small", "softmax large kept"
        )
    yield Contrast("warmup", "what does warmup add to the linear rule?", goyal, "sgd large scaled")
    for when in ("a quarter", "half", "three quarters"):
        yield Contrast(
            f"curves at {when}", "do the training curves coincide?", goyal, small, metric=f"train_loss at {when}"
        )
    for mode in modes:
        for kind in SHARPNESS:
            metric, name = f"{kind} ({mode})", measure_name(f"{kind} ({mode})")
            yield Contrast(f"kept ÷ small, {name}", "is it sharper?", kept, small, kind="ratio", metric=metric)
            yield Contrast(f"recipe ÷ small, {name}", "is it sharper?", goyal, small, kind="ratio", metric=metric)
    yield Contrast("early gradients", "are the large batch's early gradients inaccurate?", kept, small,
                   metric="early batch_cosine")  # fmt: skip
    compared = tuple(c.name for c in cells if c.name.startswith("sgd large") and "updates" not in c.name)
    for against in ("early batch_cosine", "early step_cosine", "largest sharpness_times_lr", "early lambda_max"):
        yield Contrast(f"{measure_name(against)} and accuracy", "what predicts the final accuracy?", kind="correlation",
                       cells=compared, against=against)  # fmt: skip
