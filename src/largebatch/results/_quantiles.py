"""Student's t, which every interval here is made with."""
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["student_quantile"]


@overload
def student_quantile(degrees_of_freedom: float, level: float) -> float: ...


@overload
def student_quantile(degrees_of_freedom: "NDArray[np.floating[Any]]", level: float) -> "NDArray[np.floating[Any]]": ...


def student_quantile(
    degrees_of_freedom: "float | NDArray[np.floating[Any]]", level: float
) -> "float | NDArray[np.floating[Any]]":
    """t with P(|T| ≤ t) = level, shaped like the degrees of freedom; infinitely many are the Normal.

    Args:
        degrees_of_freedom: above 0.
        level: between 0 and 1.
    """
    # Here and not on top: scipy takes longer to import than the command line to answer. scipy.stats takes longer still.
    import numpy as np
    from scipy.special import ndtri, stdtrit

    probability = (1 + level) / 2
    t = np.where(np.isinf(degrees_of_freedom), ndtri(probability), stdtrit(degrees_of_freedom, probability))
    return t if isinstance(degrees_of_freedom, np.ndarray) else float(t)
