"""Batch sweep: accuracy and sharpness against the batch, by Goyal's recipe, and where accuracy breaks.

Goyal et al. 2017 (arXiv 1706.02677, figure 1) find the validation error of ResNet-50 flat up to a batch of 8k and rising
beyond; Keskar et al. 2017 (arXiv 1609.04836, figure 4) find a threshold of about 15,000 for F2 and 500 for C1, and
sharpness rising up to it. The break point is that of a level line that bends down, fitted to each seed over log₂ B.
"""

from typing import Literal

from largebatch.comparison import Cell, Contrast, Measures, Study, Subject, contrast_sentences
from largebatch.study._sizes import Sizes

__all__ = ["batch_sweep"]

SHARP: tuple[Literal["sharpness"], ...] = ("sharpness",)
SHARPNESS = ("metric_2_1_ascent", "lambda_max", "adaptive_linf")


def batch_sweep(
    subject: Subject,
    *,
    small: int | None = None,
    large: int | None = None,
    duration: str | None = None,
    quick: bool = False,
) -> Study:
    """The study for any task: batches double from `small` to `large`, or all data; `quick` leaves out every other one.

    Raises:
        ValueError: a task without a recipe, or batches that do not fit it.
    """
    sizes = Sizes.of(subject, small, large, duration)
    last = sizes.train_size if large is None else sizes.large
    batches = [sizes.small]
    while batches[-1] * 2 <= last:
        batches.append(batches[-1] * 2)
    batches = batches[:: 2 if quick else 1]
    batches += [last] if batches[-1] < last else []
    names = tuple(f"batch {batch}" for batch in batches)
    cells = tuple(
        Cell(name, sizes.recipe.at(batch), f"× {batch / sizes.small:g}", reference=batch == sizes.small, measures=SHARP)
        for name, batch in zip(names, batches, strict=True)
    )
    end = names[-1]
    contrasts = (
        Contrast("break point", "up to which batch is accuracy kept?", kind="break point", cells=names, primary=True),
        Contrast("the largest batch", "what does it cost?", names[0], end, primary=True),
        Contrast("sharpness and accuracy", "do sharper minima come with lower accuracy?", kind="correlation", cells=names,
                 against=f"adaptive_linf ({sizes.modes[0]})"),
        Contrast("sharpness of the largest batch", "is it sharper?", end, names[0], kind="ratio",
                 metric=f"adaptive_linf ({sizes.modes[0]})"),
    )  # fmt: skip
    return Study(
        name="batch-sweep", subject=subject, cells=cells, contrasts=sizes.asked(contrasts), answer=contrast_sentences,
        question=f"how large a batch keeps the accuracy of batch {sizes.small} by Goyal's recipe at equal epochs?",
        measures=Measures(sharpness=SHARPNESS),
        notes=(f"{sizes.recipe.optimizer}, rate {sizes.recipe.lr:g} at batch {sizes.small}, gradual warmup",),
        references=("Goyal et al. 2017, arXiv 1706.02677", "Keskar et al. 2017, arXiv 1609.04836"),
    )  # fmt: skip
