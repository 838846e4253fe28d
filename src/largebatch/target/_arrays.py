"""The arrays of this room by what they hold."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Booleans", "Floats"]

Floats = NDArray[np.floating[Any]]
Booleans = NDArray[np.bool_]
