"""What a sharpness will cost, told before it is measured: passes by count, seconds by timing one batch, memory by count."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from largebatch.core import Risk, has_batch_norm, stopwatch
from largebatch.results import Result
from largebatch.sharpness._registry import SHARPNESS, Options, resolve

__all__ = ["ExpectedCost", "expected_cost"]


@dataclass(frozen=True)
class ExpectedCost(Result):
    """What to expect of one kind of sharpness.

    Args:
        name: of the kind.
        passes: forward and backward passes over the data. A line search usually takes fewer, and solvers
            that stop by themselves are told by what they took on F1 and a small convolutional network.
        seconds: at the speed of the batch that was timed, without the search's own arithmetic.
        memory_bytes: beside the model, the data and the activations of a batch.
    """

    name: str
    passes: float
    seconds: float
    memory_bytes: int


def expected_cost(risk: Risk, kinds: Iterable[str] | Mapping[str, Options] | None = None) -> tuple[ExpectedCost, ...]:
    """The cost of `sharpness_all(risk, kinds)`, for that of two passes over one batch.

    Args:
        kinds: names in `SHARPNESS`, or name → options; None for all with their defaults.

    Raises:
        ValueError: as `sharpness_all`.
    """
    settings = resolve(kinds)
    seconds_per_pass = _seconds_per_pass(risk)
    anew = 1 / 3 if risk.batch_norm == "reestimated" and has_batch_norm(risk.model) else 0.0  # a forward per evaluation
    vector_bytes = risk.dimension * risk.parameters[0].element_size()
    found: list[ExpectedCost] = []
    for name, options in settings.items():
        kind = SHARPNESS[name]
        gradients, values = kind.evaluations(options)
        passes = gradients * (1 + anew) + values * (1 / 3 + anew)
        memory_bytes = round(kind.vectors(options) * vector_bytes)
        found.append(ExpectedCost(name, passes, passes * seconds_per_pass, memory_bytes))
    return tuple(found)


def _seconds_per_pass(risk: Risk) -> float:
    """From one batch; the first pass warms up, for it allocates."""
    batch = risk.subset(risk.batch_size)
    batch.value_and_gradient()
    with stopwatch(batch) as watch:
        batch.value_and_gradient()
    return watch.seconds / watch.passes * risk.samples / batch.samples
