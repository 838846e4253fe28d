"""The papers' own tables beside ours.

Keskar et al. 2017 (arXiv 1609.04836), tables 2 to 4: Adam, a small batch against a tenth of the data, nothing else changed.
Goyal et al. 2017 (arXiv 1706.02677), table 1: a small batch, and a large one by the linear rule without warmup, with
constant and with gradual warmup. Published figures are of the papers' data and machines; what may be compared is the
direction.
"""

from largebatch.study._answers import contrast_sentences
from largebatch.study._design import Cell, Contrast, Measures, Study
from largebatch.study._sizes import Sizes
from largebatch.study._subject import Subject

__all__ = ["goyal", "keskar"]

KESKAR_TEST = {
    "f1": (98.03, 97.81), "f2": (64.02, 59.45), "c1": (80.04, 77.26), "c2": (89.24, 87.26), "c3": (49.58, 46.45),
    "c4": (63.08, 57.81),
}  # fmt: skip
"""Network → test accuracy in % of the small and the large batch, table 2."""

KESKAR_SHARPNESS = {
    "f1": (1.23, 205.14), "f2": (1.39, 310.64), "c1": (28.58, 707.23), "c2": (8.68, 925.32), "c3": (29.85, 258.75),
    "c4": (12.83, 421.84),
}  # fmt: skip
"""Network → Metric 2.1 at ε = 1e-3 in the full space, table 3."""

GOYAL_ERROR = {
    "small": 23.60, "large, no warmup": 24.84, "large, constant warmup": 25.88, "large, gradual warmup": 23.74,
}  # fmt: skip
"""Validation error in % of ResNet-50 at 256 and 8k, table 1."""


def keskar(
    subject: Subject,
    *,
    small: int | None = None,
    large: int | None = None,
    duration: str | None = None,
    quick: bool = False,
) -> Study:
    """Keskar's comparison on any task; arguments as for `open_question`, `quick` measures the paper's metric alone.

    Raises:
        ValueError: a task without a recipe, or batches that do not fit it.
    """
    sizes = Sizes.of(subject, small, large, duration)
    adam = sizes.keskar_adam
    network = subject.task.rpartition("/")[2]
    kinds = ("metric_2_1",) if quick else ("metric_2_1", "metric_2_1_subspace", "lambda_max", "asam", "adaptive_linf")
    ratios = tuple(
        Contrast(f"{kind} ({mode})", "is the large batch's minimum sharper?", "large", "small", kind="ratio",
                 metric=f"{kind} ({mode})", primary=kind == "metric_2_1" and mode == "batch")
        for kind in kinds for mode in ("batch", "running")
    )  # fmt: skip
    published = ()
    if network in KESKAR_TEST:
        accuracy, sharp = KESKAR_TEST[network], KESKAR_SHARPNESS[network]
        published = (
            f"published, {network.upper()} on the paper's own data: test accuracy {accuracy[0]} % and {accuracy[1]} %, a "
            f"gap of {accuracy[0] - accuracy[1]:.2f} points; Metric 2.1 at 1e-3 {sharp[0]:g} and {sharp[1]:g}, a ratio of "
            f"{sharp[1] / sharp[0]:.0f}; ‖x − x₀‖ small ÷ large between 3 and 10",
        )
    return Study(
        name="keskar", subject=subject, answer=contrast_sentences,
        cells=(
            Cell("small", adam, "SB", reference=True, measures=("sharpness",)),
            Cell("large", adam.at(sizes.large, rule="none"), "LB", measures=("sharpness",)),
        ),
        contrasts=(
            Contrast("gap", "is the large batch worse?", "small", "large", primary=True),
            Contrast("distance", "how many times as far does the small batch get?", "small", "large", kind="ratio",
                     metric="distance", primary=True),
            *ratios,
        ),
        question=f"Keskar et al.'s comparison: batch {sizes.small} against {sizes.large}, Adam, nothing else changed",
        measures=Measures(sharpness=kinds, paths=(("small", "large"),), planes=("small", "large")),
        notes=published, references=("Keskar et al. 2017, arXiv 1609.04836",),
    )  # fmt: skip


def goyal(
    subject: Subject,
    *,
    small: int | None = None,
    large: int | None = None,
    duration: str | None = None,
    quick: bool = False,
) -> Study:
    """Goyal's table 1 on any task; arguments as for `open_question`, `quick` measures no sharpness.

    Raises:
        ValueError: a task without a recipe, or batches that do not fit it.
    """
    sizes = Sizes.of(subject, small, large, duration)
    own = sizes.recipe
    constant = f"constant(5ep,start_lr={own.lr!r},at_most=0.2dur)"
    recipes = {
        "small": own,
        "large, no warmup": own.at(sizes.large, warmup=None),
        "large, constant warmup": own.at(sizes.large, warmup=constant),
        "large, gradual warmup": own.at(sizes.large),
    }
    cells = tuple(
        Cell(name, recipe, f"published error {GOYAL_ERROR[name]} %", reference=name == "small",
             measures=() if quick else ("sharpness",))
        for name, recipe in recipes.items()
    )  # fmt: skip
    gradual, none = "large, gradual warmup", "large, no warmup"
    return Study(
        name="goyal", subject=subject, cells=cells, answer=contrast_sentences,
        contrasts=(
            Contrast("gradual warmup", "is it as good as the small batch?", gradual, "small", kind="non-inferiority",
                     margin=0.5, primary=True),
            Contrast("no warmup", "what does it cost to leave it out?", gradual, none, primary=True),
            Contrast("constant warmup", "is constant warmup worse than none?", "large, constant warmup", none, primary=True),
            *(Contrast(f"curves at {when}", "do the training curves coincide?", gradual, "small",
                       metric=f"train_loss at {when}") for when in ("a quarter", "half", "three quarters")),
        ),
        question=f"Goyal et al.'s table 1: batch {sizes.small}, and {sizes.large} by the linear rule with three warmups",
        measures=Measures(sharpness=("lambda_max", "adaptive_linf")),
        notes=("published, ResNet-50 on ImageNet, batches 256 and 8k: "
               + ", ".join(f"{name} {error} %" for name, error in GOYAL_ERROR.items()),),
        references=("Goyal et al. 2017, arXiv 1706.02677",),
    )  # fmt: skip
