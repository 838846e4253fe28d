"""How bad input is told: what was expected, what came, what to do; several mistakes together in one error."""

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["RecipeError", "did_you_mean", "located"]


class RecipeError(ValueError):
    """Every mistake of one input, a line each.

    Args:
        subject: what was wrong as a whole, for example "recipe".
        mistakes: one line per mistake, "field: expected ..., got ...; what to do".
    """

    def __init__(self, subject: str, mistakes: Sequence[str]) -> None:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__("\n  ".join([f"{subject}: {count}", *mistakes]))
        self.subject = subject
        self.mistakes = tuple(mistakes)

    def __reduce__(self) -> tuple[type["RecipeError"], tuple[str, tuple[str, ...]]]:
        # The default would call the class with the message alone, and an error must survive its way out of a worker.
        return RecipeError, (self.subject, self.mistakes)


def located(place: str, error: ValueError) -> list[str]:
    """The mistakes of an error that arose inside `place`, named by their path from outside."""
    if isinstance(error, RecipeError):
        return [f"{place}.{mistake}" for mistake in error.mistakes]
    return [f"{place}: {error}"]


def did_you_mean(given: object, names: Iterable[str]) -> str:
    """The ending "; did you mean 'sgd'?" where one of the names is near, else nothing."""
    near = difflib.get_close_matches(str(given).lower(), list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
