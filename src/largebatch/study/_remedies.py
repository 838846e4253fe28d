"""Remedies: each alone on the plain large batch, and each added to Goyal's recipe, with its cost in gradients.

Alone they show whether they win anything back; added, whether they still do where the recipe has done its part. Sources:
linear rule, warmup and ghosts Goyal et al. 2017 (arXiv 1706.02677); longer training Hoffer et al. 2017 (arXiv 1705.08741);
LARS You et al. 2017 (arXiv 1708.03888), LAMB You et al. 2020 (arXiv 1904.00962); SAM Foret et al. 2021 (arXiv 2010.01412);
conservative steps and augmentation Keskar et al. 2017 (arXiv 1609.04836, appendix E); batch growth Smith et al. 2018 (arXiv
1711.00489); label smoothing Shallue et al. 2019 (arXiv 1811.03600). Strengths are ours, and not tuned.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from largebatch.comparison import Cell, Contrast, Measures, Study, Subject, contrast_sentences
from largebatch.recipe import Phase, Recipe
from largebatch.study._sizes import Sizes

__all__ = ["remedies"]

Remedy = Callable[[Recipe], Recipe]

GHOST, RHO, SMOOTHING, PULL, SHIFT_PIXELS = 32, 0.05, 0.1, 1e-3, 2
LARS_LR, LAMB_LR = 5.0, 1e-2  # at any batch; --tune lr finds better ones


REFERENCES = (
    "Goyal et al. 2017, arXiv 1706.02677",
    "Hoffer et al. 2017, arXiv 1705.08741",
    "You et al. 2017, arXiv 1708.03888",
    "You et al. 2020, arXiv 1904.00962",
    "Foret et al. 2021, arXiv 2010.01412",
    "Keskar et al. 2017, arXiv 1609.04836",
    "Smith et al. 2018, arXiv 1711.00489",
    "Shallue et al. 2019, arXiv 1811.03600",
)


GOYALS = ("linear rule", "warmup", "ghosts")  # are the recipe


def remedies(
    subject: Subject,
    *,
    small: int | None = None,
    large: int | None = None,
    duration: str | None = None,
    quick: bool = False,
) -> Study:
    """The study for any task; arguments as for `open_question`, `quick` leaves out what is alone.

    Raises:
        ValueError: a task without a recipe, or batches that do not fit it.
    """
    sizes = Sizes.of(subject, small, large, duration)
    own = sizes.recipe
    kept = replace(own.at(sizes.large, rule="none"), ghost_batch_size=None)
    goyal = own.at(sizes.large)
    known = _known(sizes, has_images=_has_images(subject))
    alone = {} if quick else {f"{name} alone": change(kept) for name, change in known.items()}
    added = {f"recipe + {name}": change(goyal) for name, change in known.items() if name not in GOYALS}
    cells = (
        Cell("small", own, "the reference", reference=True, measures=("sharpness",)),
        Cell("large kept", kept, "nothing changed but the batch", measures=("sharpness",)),
        *(Cell(name, recipe, "on the plain large batch", measures=("sharpness",)) for name, recipe in alone.items()),
        Cell("recipe", goyal, "linear rule, gradual warmup, ghosts", measures=("sharpness",)),
        *(Cell(name, recipe, "on the recipe", measures=("sharpness",)) for name, recipe in added.items()),
    )
    contrasts = (
        Contrast("gap", "is the large batch worse?", "small", "large kept", primary=True),
        Contrast("recipe", "what does the recipe win back?", "recipe", "large kept", "small", "share", primary=True),
        *(Contrast(name, "what does it win back alone?", name, "large kept", "small", "share") for name in alone),
        *(Contrast(name, "what does it add to the recipe?", name, "recipe") for name in added),
        *(Contrast(f"sharpness, {name}", "is what it finds flatter?", name, "recipe", kind="ratio",
                   metric=f"adaptive_linf ({sizes.modes[0]})") for name in added),
    )  # fmt: skip
    return Study(
        name="remedies", subject=subject, cells=cells, contrasts=sizes.asked(contrasts), answer=contrast_sentences,
        question=f"which remedy wins back what batch {sizes.large} loses against {sizes.small}, and at what cost?",
        measures=Measures(sharpness=("lambda_max", "adaptive_linf")),
        notes=(
            f"strengths, not tuned: SAM ρ = {RHO}, label smoothing {SMOOTHING}, conservative steps λ = {PULL}, LARS rate "
            f"{LARS_LR:g}, LAMB rate {LAMB_LR:g}; costs in gradients stand in the table of cells",
        ),
        references=REFERENCES,
    )  # fmt: skip


def _known(sizes: Sizes, *, has_images: bool) -> Mapping[str, Remedy]:
    """Name → what it changes."""
    own, k = sizes.recipe, sizes.large / sizes.small
    ghost = min(GHOST, sizes.small)
    half = f"{0.5 * sizes.epochs:g}ep"

    def grown(recipe: Recipe) -> Recipe:
        first = replace(own, duration=half, schedule="constant")
        return replace(first, then=Phase(replace(recipe, duration=half, warmup="none"), carry="all"))

    def layerwise(recipe: Recipe, optimizer: Literal["lars", "lamb"], lr: float) -> Recipe:
        warmup = recipe.warmup if recipe.warmup.kind == "none" else replace(recipe.warmup, start_lr=lr / k)
        return replace(recipe, optimizer=optimizer, lr=lr, warmup=warmup, nesterov=False, rule="none")

    found: dict[str, Remedy] = {
        "linear rule": lambda r: replace(r, lr=own.lr * k),
        "warmup": lambda r: replace(r, warmup=f"gradual(5ep,start_lr={r.lr / k!r},at_most=0.2dur)"),
        "ghosts": lambda r: replace(r, ghost_batch_size=ghost),
        "longer training": lambda r: replace(r, duration=f"{k * sizes.epochs:g}ep"),
        "LARS": lambda r: layerwise(r, "lars", LARS_LR),
        "LAMB": lambda r: layerwise(r, "lamb", LAMB_LR),
        "SAM": lambda r: replace(r, sam_rho=RHO),
        "conservative steps": lambda r: replace(r, proximal_strength=PULL),
        "batch growth": grown,
        "label smoothing": lambda r: replace(r, label_smoothing=SMOOTHING),
    }
    return found | ({"augmentation": lambda r: replace(r, augment=(f"shift:{SHIFT_PIXELS}",))} if has_images else {})


def _has_images(subject: Subject) -> bool:
    train = subject.load().train
    return isinstance(train, tuple) and train[0].dim() == 4
