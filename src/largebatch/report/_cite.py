"""References of the methods that a page uses: those of its study, of what was measured, of how it is drawn and judged."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from largebatch.comparison import StudyResult
from largebatch.diagnose import SHARPNESS

__all__ = ["LANCZOS", "STUDENT", "Reference", "references", "sharpness_sources", "study_sources"]

ARXIV = re.compile(r"\d{4}\.\d{5}")

TITLES = {
    "1609.04836": "On large-batch training for deep learning: generalization gap and sharp minima",
    "1703.04933": "Sharp minima can generalize for deep nets",
    "1705.08741": "Train longer, generalize better: closing the generalization gap in large batch training",
    "1706.02677": "Accurate, large minibatch SGD: training ImageNet in 1 hour",
    "1712.09913": "Visualizing the loss landscape of neural nets",
    "1812.06162": "An empirical model of large-batch training",
    "1901.10159": "An investigation into neural net optimization via Hessian eigenvalue density",
    "1912.05671": "Linear mode connectivity and the lottery ticket hypothesis",
    "2003.01690": "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    "2010.01412": "Sharpness-aware minimization for efficiently improving generalization",
    "2010.09649": "Hutch++: optimal stochastic trace estimation",
    "2102.11600": "ASAM: adaptive sharpness-aware minimization for scale-invariant learning of deep neural networks",
    "2103.00065": "Gradient descent on neural networks typically occurs at the edge of stability",
    "2302.07011": "A modern look at the relationship between sharpness and generalization",
}

STUDENT = "Student 1908, The probable error of a mean, Biometrika 6"
HOLM = "Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6"
FIELLER = "Fieller 1954, Some problems in interval estimation, Journal of the Royal Statistical Society B 16"
LANCZOS = (
    "Lanczos 1950, An iteration method for the solution of the eigenvalue problem of linear differential and integral "
    "operators, Journal of Research of the National Bureau of Standards 45"
)
WHOLE = (STUDENT, HOLM, FIELLER, LANCZOS)


@dataclass(frozen=True)
class Reference:
    """One entry.

    Args:
        text: authors, year, title.
        link: where it is to be found; "" where nothing tells. Nothing is fetched before the reader follows it.
    """

    text: str
    link: str = ""


def references(sources: Iterable[str]) -> list[Reference]:
    """Each once, with its title where it is known, in the order of their names.

    Args:
        sources: such as "Keskar et al. 2017, arXiv 1609.04836"; several are parted by "; ".
    """
    found: dict[str, Reference] = {}
    for text in sources:
        for part in text.split("; "):
            number = ARXIV.search(part)
            whole = next((entry for entry in WHOLE if entry.startswith(part)), part)
            key = number.group() if number else whole
            found.setdefault(key, _reference(part, number.group()) if number else Reference(whole))
    return sorted(found.values(), key=lambda reference: reference.text)


def _reference(text: str, number: str) -> Reference:
    authors = text.split(", arXiv", maxsplit=1)[0]
    title = f", {TITLES[number]}" if number in TITLES else ""
    return Reference(f"{authors}{title}, arXiv {number}", f"https://arxiv.org/abs/{number}")


def sharpness_sources(names: Iterable[str]) -> Iterable[str]:
    """Of measurements, by their names; what is no measure of sharpness has none."""
    for name in dict.fromkeys(names):
        if name in SHARPNESS:
            yield SHARPNESS[name].paper.removesuffix(", Metric 2.1").removesuffix(" (Hutch++)")


def study_sources(study: StudyResult) -> Iterable[str]:
    """What the study names, what its page shows, and how it is judged."""
    yield from study.references
    yield STUDENT
    if any(row.primary for row in study.contrasts):
        yield HOLM
    if any(row.kind == "share" for row in study.contrasts):
        yield FIELLER
    yield from sharpness_sources(row.name for row in study.measurements)
    looked = {name for look in study.looks for name in look.values}
    used = {
        "Dinh et al. 2017, arXiv 1703.04933": bool(study.measurements),
        "McCandlish et al. 2018, arXiv 1812.06162": "noise_scale" in looked,
        "Goyal et al. 2017, arXiv 1706.02677": "step_cosine" in looked,
        "Cohen et al. 2021, arXiv 2103.00065": "sharpness_times_lr" in looked,
        "Keskar et al. 2017, arXiv 1609.04836": bool(study.paths),
        "Frankle et al. 2020, arXiv 1912.05671": bool(study.paths),
        "Li et al. 2018, arXiv 1712.09913": bool(study.planes),
        "Ghorbani et al. 2019, arXiv 1901.10159": bool(study.spectra),
        LANCZOS: bool(study.spectra) or "lambda_max" in looked,
    }
    yield from (text for text, is_used in used.items() if is_used)
