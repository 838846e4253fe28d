"""What a measure is called in the field: one name each, for sentences, tables and plots. Files keep the code's names.

A key of the code is a kind with its options and whose batch-norm statistics, "metric_2_1(epsilon=0.0005) (batch)", a number
of a run, "train_loss at half", or one of its looks, "early lambda_max".
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["NAMES", "measure_name"]

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "metric_2_1": "Metric 2.1",
        "metric_2_1_ascent": "Metric 2.1 (sign ascent)",
        "metric_2_1_subspace": "Metric 2.1 (random subspace)",
        "lambda_max": "λ_max",
        "trace": "trace of the Hessian",
        "sam": "SAM sharpness",
        "asam": "ASAM sharpness",
        "adaptive_linf": "adaptive ℓ∞ sharpness",
        "average": "average sharpness",
        "sharpness_times_lr": "η·λ_max",
        "batch_cosine": "cos(g_batch, g_full)",
        "step_cosine": "cos(g_t, g_t+j)",
        "noise_scale": "gradient noise scale",
        "linear_rule": "error of the linear rule",
        "distance": "‖x − x₀‖",
        "seconds": "time",
    }
)
"""Kind → name; any other kind is its own name, with spaces."""

KEY = re.compile(r"([^(\[]+?)(?:\(([^)]*)\))?(?: [(\[](\w+)[)\]])?")
ENDS = ("the start", "the end")
WHEN = {"early": "{} after one epoch", "largest": "largest {}", "last": "{} at the end"}


def measure_name(key: str) -> str:
    """A measure's name for reading: what it is, its options, and whose batch-norm statistics.

    Args:
        key: as results have it.
    """
    parts = KEY.fullmatch(key)
    if parts is None:
        return key
    kind, options, mode = parts.groups()
    told = [_kind_name(kind)]
    told += [options.replace("epsilon", "ε").replace("=", " = ")] if options else []
    told += [f"{mode} statistics"] if mode and mode != "none" else []
    return ", ".join(told)


def _kind_name(kind: str) -> str:
    when, _, rest = kind.partition(" ")
    if when in WHEN and rest:
        return WHEN[when].format(_kind_name(rest))
    what, at, moment = kind.partition(" at ")
    name = NAMES.get(what, what.replace("_", " "))
    return f"{name} at {moment}{'' if moment in ENDS else ' of the run'}" if at else name
