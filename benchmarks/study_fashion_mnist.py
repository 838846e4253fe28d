"""The open question on Fashion-MNIST: studies for `largebatch study`, cheap enough for two cores.

    largebatch study benchmarks/study_fashion_mnist.py:f1_10k --out runs/f1-10k     # equal epochs and equal updates
    largebatch study benchmarks/study_fashion_mnist.py:f1_60k --out runs/f1-60k     # equal epochs on all data
    largebatch study benchmarks/study_fashion_mnist.py:conv_10k --out runs/conv-10k

Add --seeds, --dry-run, --workers; an interrupted study goes on. docs/results/open-question.md holds what came of them.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from largebatch.study import Contrast, Study, Subject, open_question

SAMPLES = 10_000
SMALL, LARGE = 64, 1000
WHOLE_UPDATES = 300


def f1_10k() -> Study:
    """Keskar's F1 on 10,000 samples: batches 64, 1000 and 10,000, 20 epochs and equal updates."""
    subject = Subject("fashion-mnist/f1", samples=SAMPLES)
    study = open_question(subject, small=SMALL, large=LARGE, whole_updates=WHOLE_UPDATES, quick=True, duration="20ep")
    return replace(study, name="open-question-f1-10k")


def f1_60k() -> Study:
    """Keskar's F1 on all 60,000 samples, 20 epochs: batches 256, 6,000 and 60,000, the last with an update an epoch."""
    design = partial(open_question, Subject("fashion-mnist/f1"), small=256, large=6000, duration="20ep")
    study = design(quick=True).without(", updates")
    (descent,) = (cell for cell in design().cells if cell.name == "sgd whole kept")
    asked = Contrast("gradient descent", "what does no noise at all cost?", "sgd small", descent.name)
    return replace(
        study, name="open-question-f1-60k", cells=(*study.cells, replace(descent, measures=())),
        contrasts=(*study.contrasts, asked), notes=study.notes[:-1],
    )  # fmt: skip


def conv_10k() -> Study:
    """The small convolutional network of small_conv.py on 10,000 samples."""
    subject = Subject(f"{Path(__file__).resolve().with_name('small_conv.py')}:task", samples=SAMPLES)
    study = open_question(subject, small=SMALL, large=LARGE, whole_updates=WHOLE_UPDATES, quick=True, duration="20ep")
    return replace(study.without("large kept, updates", "large scaled gradual, updates"), name="open-question-conv-10k")
