"""The built-in studies by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from largebatch.comparison import Study
from largebatch.study._batch_sweep import batch_sweep
from largebatch.study._load import load_study
from largebatch.study._open_question import open_question
from largebatch.study._papers import goyal, keskar
from largebatch.study._remedies import remedies
from largebatch.study._warm_start import warm_start

__all__ = ["STUDIES", "find_study"]

STUDIES: Mapping[str, Callable[..., Study]] = MappingProxyType(
    {
        "open-question": open_question,
        "warm-start": warm_start,
        "batch-sweep": batch_sweep,
        "remedies": remedies,
        "keskar": keskar,
        "goyal": goyal,
    }
)
"""Each makes its study for a subject."""


def find_study(text: str) -> Study | Callable[..., Study]:
    """A built-in study's maker, or the study of a `path/to/file.py:name`.

    Raises:
        ValueError, FileNotFoundError: there is none.
    """
    if text in STUDIES:
        return STUDIES[text]
    if ".py" in text:
        return load_study(text)
    raise ValueError(f"study: expected one of {', '.join(STUDIES)}, or path/to/file.py:name, got {text!r}")
