"""Warm start: a small batch first, then the large one. When is it late enough to switch?

Keskar et al. 2017 (arXiv 1609.04836, figure 5): from iterates of a small-batch run a large batch goes on; after few warm
epochs nothing is gained and sharpness stays high, after more accuracy rises and sharpness falls. Their protocol (Adam, rate
and everything else untouched, a new optimiser at the switch), with the controls that their figure leaves out: the small
batch alone and the large batch alone, each at equal epochs and at equal updates.
"""

from dataclasses import replace

from largebatch.comparison import Cell, Contrast, Measures, Study, Subject, contrast_sentences
from largebatch.core import data_size
from largebatch.recipe import Phase, Recipe
from largebatch.study._plan import total_updates
from largebatch.study._sizes import Sizes

__all__ = ["warm_start"]

SHARES = (0.05, 0.1, 0.25, 0.5)  # of the epochs, trained with the small batch
MARGIN_POINTS = 0.5
SHARPNESS = ("metric_2_1_ascent", "lambda_max", "adaptive_linf")


def warm_start(
    subject: Subject,
    *,
    small: int | None = None,
    large: int | None = None,
    duration: str | None = None,
    quick: bool = False,
) -> Study:
    """The study for any task; arguments as for `open_question`, `quick` leaves two switches.

    Raises:
        ValueError: a task without a recipe, or batches that do not fit it.
    """
    sizes = Sizes.of(subject, small, large, duration)
    size, epochs = data_size(subject.load().train), sizes.epochs
    adam = sizes.keskar_adam
    plain = adam.at(sizes.large, rule="none")

    def switched(share: float) -> Recipe:
        later = replace(plain, duration=f"{(1 - share) * epochs:g}ep")
        return replace(adam, duration=f"{share * epochs:g}ep", then=Phase(later, carry="weights"))

    shares = SHARES[1::2] if quick else SHARES
    warm = {f"warm start, {100 * share:g} % small": switched(share) for share in shares}
    last = list(warm)[-1]
    updates = total_updates(warm[last], size)
    cells = (
        Cell("small only", adam, "equal epochs", reference=True, measures=("sharpness",)),
        Cell("large only", plain, "equal epochs", measures=("sharpness",)),
        *(Cell(name, recipe, "then large, at equal epochs", measures=("sharpness",)) for name, recipe in warm.items()),
        Cell("small only, equal updates", replace(adam, duration=f"{updates}steps"), f"as many updates as {last}"),
        Cell("large only, equal updates", replace(plain, duration=f"{updates}steps"), f"as many updates as {last}",
             measures=("sharpness",)),
    )  # fmt: skip
    metric = f"adaptive_linf ({sizes.modes[0]})"
    contrasts = (
        Contrast("warm start against small", "is it as good as the small batch?", last, "small only", primary=True,
                 kind="non-inferiority", margin=MARGIN_POINTS),
        Contrast("warm start against large", "is it better than the large batch?", last, "large only", primary=True),
        Contrast("against more updates", "or is it the number of updates?", last, "large only, equal updates", primary=True),
        Contrast("sharpness after the switch", "is what it finds flatter?", last, "large only", kind="ratio", metric=metric,
                 primary=True),
        *(Contrast(name, "when is it late enough?", name, "large only") for name in list(warm)[:-1]),
        *(Contrast(f"sharpness, {name}", "when is it flatter?", name, "large only", kind="ratio", metric=metric)
          for name in list(warm)[:-1]),
    )  # fmt: skip
    return Study(
        name="warm-start", subject=subject, cells=cells, contrasts=sizes.asked(contrasts), answer=contrast_sentences,
        question=f"does a start with batch {sizes.small} save batch {sizes.large}, and when is it late enough to switch?",
        measures=Measures(sharpness=SHARPNESS, paths=(("small only", "large only"), ("small only", last))),
        notes=("Adam at rate 1e-3, constant, statistics of the whole batch, a new optimiser at the switch",),
        references=("Keskar et al. 2017, arXiv 1609.04836", "Andriushchenko et al. 2023, arXiv 2302.07011", "Holm 1979"),
    )  # fmt: skip
