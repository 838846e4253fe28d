"""A progress bar with time left, on stderr, for what takes more than two seconds; none where stderr is no terminal."""

import sys
from typing import Any

from tqdm import tqdm

__all__ = ["progress"]


def progress(description: str, total: float | None = None, unit: str = "") -> "tqdm[Any]":
    """A bar to be updated, and closed by `with`. It appears after two seconds.

    Args:
        description: what is being done.
        total: how many units there are; None where that is not known.
        unit: what is counted, such as "products".
    """
    return tqdm(total=total, desc=description, unit=f" {unit}" if unit else "", delay=2.0, disable=None,
                file=sys.stderr, leave=False)  # fmt: skip
