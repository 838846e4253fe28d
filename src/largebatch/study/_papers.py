"""The papers' own tables beside ours.

Keskar et al. 2017 (arXiv 1609.04836), tables 2 to 4: Adam, a small batch against a tenth of the data, nothing else changed.
Goyal et al. 2017 (arXiv 1706.02677), table 1: a small batch, and a large one by the linear rule without warmup, with
constant and with gradual warmup. Published figures are of the papers' data and machines; what may be compared is the
direction.
"""

from collections.abc import Mapping
from typing import Literal

from largebatch.comparison import Cell, Contrast, Measures, Published, Study, Subject, contrast_sentences, measure_name
from largebatch.study._sizes import Sizes

__all__ = ["goyal", "keskar"]

KESKAR_TEST = {
    "f1": ((98.03, 0.07), (97.81, 0.07)), "f2": ((64.02, 0.20), (59.45, 1.05)), "c1": ((80.04, 0.12), (77.26, 0.42)),
    "c2": ((89.24, 0.12), (87.26, 0.07)), "c3": ((49.58, 0.39), (46.45, 0.43)), "c4": ((63.08, 0.50), (57.81, 0.17)),
}  # fmt: skip
"""Network → test accuracy in % of the small and the large batch, mean and standard deviation, table 2."""

KESKAR_FULL = {
    "f1": ((1.23, 0.83), (205.14, 69.52)), "f2": ((1.39, 0.02), (310.64, 38.46)), "c1": ((28.58, 3.13), (707.23, 43.04)),
    "c2": ((8.68, 1.32), (925.32, 38.29)), "c3": ((29.85, 5.98), (258.75, 8.96)), "c4": ((12.83, 3.84), (421.84, 36.97)),
}  # fmt: skip
"""Network → Metric 2.1 at ε = 1e-3 in the full space, table 3."""

KESKAR_SUBSPACE = {
    "f1": ((0.11, 0.00), (9.22, 0.56)), "f2": ((0.29, 0.02), (23.63, 0.54)), "c1": ((2.18, 0.23), (137.25, 21.60)),
    "c2": ((0.95, 0.34), (25.09, 2.61)), "c3": ((17.02, 2.20), (236.03, 31.26)), "c4": ((6.05, 1.13), (72.99, 10.96)),
}  # fmt: skip
"""Network → the same in random subspaces of dimension 100, table 4."""

KESKAR_DATA = {"f1": "MNIST", "f2": "TIMIT", "c1": "CIFAR-10", "c2": "CIFAR-10", "c3": "CIFAR-100", "c4": "CIFAR-100"}

GOYAL_ERROR = {
    "small": (23.60, 0.12), "large, no warmup": (24.84, 0.37), "large, constant warmup": (25.88, 0.56),
    "large, gradual warmup": (23.74, 0.09),
}  # fmt: skip
"""Validation error in % of ResNet-50 at 256 and 8k, mean and standard deviation, table 1."""


KESKAR_RANGES = (
    "this network is none of Keskar et al.'s: over their six the gap is 0.22 to 5.27 points of test accuracy, and Metric "
    "2.1 of the large batch 9 to 224 times that of the small one (ε = 1e-3, full space; tables 2 and 3)"
)


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
    adam, network = sizes.keskar_adam, subject.task.rpartition("/")[2]
    published = {} if network not in KESKAR_TEST else _keskar_published(network)
    kinds = ("metric_2_1",) if quick else ("metric_2_1", "metric_2_1_subspace", "lambda_max", "asam", "adaptive_linf")
    ratios = tuple(
        Contrast(measure_name(f"{kind} ({mode})"), "is the large batch's minimum sharper?", "large", "small", kind="ratio",
                 metric=f"{kind} ({mode})", primary=kind == "metric_2_1" and mode == sizes.modes[-1],
                 published=_ratio(published, kind))
        for kind in kinds for mode in reversed(sizes.modes)
    )  # fmt: skip
    return Study(
        name="keskar", subject=subject, answer=contrast_sentences,
        cells=(
            Cell("small", adam, "SB", reference=True, measures=("sharpness",), published=_side(published, 0)),
            Cell("large", adam.at(sizes.large, rule="none"), "LB", measures=("sharpness",), published=_side(published, 1)),
        ),
        contrasts=sizes.asked((
            Contrast("gap", "is the large batch worse?", "small", "large", primary=True,
                     published=_difference(*published["test_accuracy"]) if published else ""),
            Contrast("distance", "how many times as far does the small batch get?", "small", "large", kind="ratio",
                     metric="distance", primary=True, published="3 to 10"),
            *ratios,
        )),
        question=f"Keskar et al.'s comparison: batch {sizes.small} against {sizes.large}, Adam, nothing else changed",
        measures=Measures(sharpness=kinds, paths=(("small", "large"),), planes=("small", "large")),
        notes=() if published else (KESKAR_RANGES,),
        published=_keskar_source(network) if published else "the paper's six networks; Keskar et al. 2017, arXiv 1609.04836",
        references=("Keskar et al. 2017, arXiv 1609.04836",),
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
    published = {name: Published("test_accuracy", 100 - error, spread) for name, (error, spread) in GOYAL_ERROR.items()}
    cells = tuple(
        Cell(
            name,
            recipe,
            reference=name == "small",
            measures=() if quick else ("sharpness",),
            published=(published[name],),
        )
        for name, recipe in recipes.items()
    )
    gradual, none, constant_warmup = "large, gradual warmup", "large, no warmup", "large, constant warmup"
    return Study(
        name="goyal", subject=subject, cells=cells, answer=contrast_sentences,
        contrasts=sizes.asked((
            Contrast("gradual warmup", "is it as good as the small batch?", gradual, "small", kind="non-inferiority",
                     margin=0.5, primary=True, published=_difference(published[gradual], published["small"])),
            Contrast("no warmup", "what does it cost to leave it out?", gradual, none, primary=True,
                     published=_difference(published[gradual], published[none])),
            Contrast("constant warmup", "is constant warmup worse than none?", constant_warmup, none, primary=True,
                     published=_difference(published[constant_warmup], published[none])),
            *(Contrast(f"curves at {when}", "do the training curves coincide?", gradual, "small",
                       metric=f"train_loss at {when}") for when in ("a quarter", "half", "three quarters")),
        )),
        question=f"Goyal et al.'s table 1: batch {sizes.small}, and {sizes.large} by the linear rule with three warmups",
        measures=Measures(sharpness=("lambda_max", "adaptive_linf")),
        published="ResNet-50 on ImageNet, batches 256 and 8k, 100 % − validation error, mean ± standard deviation of 5 "
        "runs; Goyal et al. 2017, arXiv 1706.02677, table 1",
        references=("Goyal et al. 2017, arXiv 1706.02677",),
    )  # fmt: skip


def _keskar_published(network: str) -> dict[str, tuple[Published, Published]]:
    """Metric → that of the small and of the large batch."""
    tables = {"test_accuracy": KESKAR_TEST, "metric_2_1": KESKAR_FULL, "metric_2_1_subspace": KESKAR_SUBSPACE}
    return {
        metric: (Published(metric, *table[network][0]), Published(metric, *table[network][1]))
        for metric, table in tables.items()
    }


def _keskar_source(network: str) -> str:
    return (
        f"{network.upper()} on {KESKAR_DATA[network]}, batches 256 and a tenth of the data, mean ± standard deviation of 5 "
        "runs, Metric 2.1 at ε = 1e-3; the paper does not say whose batch-norm statistics; Keskar et al. 2017, arXiv "
        "1609.04836, tables 2 to 4; the distance is over all its networks"
    )


def _side(published: Mapping[str, tuple[Published, Published]], side: Literal[0, 1]) -> tuple[Published, ...]:
    return tuple(pair[side] for pair in published.values())


def _ratio(published: Mapping[str, tuple[Published, Published]], kind: str) -> str:
    """Large ÷ small, of the published means."""
    return f"{published[kind][1].value / published[kind][0].value:.3g}" if kind in published else ""


def _difference(a: Published, b: Published) -> str:
    """a − b, of the published means."""
    return f"{a.value - b.value:.2f}"
