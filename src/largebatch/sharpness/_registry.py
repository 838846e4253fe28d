"""Sharpness: how fast the loss rises around the weights, in the ways it has been measured. One registry.

No two agree on what is sharp, and each has been found both to go with generalisation and not to (Jiang et al. 2020,
arXiv 1912.02178; Andriushchenko et al. 2023, arXiv 2302.07011), so they are meant to be read side by side, with what
leaves each unchanged: Dinh et al. 2017 (arXiv 1703.04933) make a ReLU network as sharp as they like and leave its
function as it is.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from largebatch.core import Measurement, Risk, progress, stopwatch
from largebatch.sharpness._average import average
from largebatch.sharpness._curvature_kinds import lambda_max, trace
from largebatch.sharpness._metric21 import metric_2_1, metric_2_1_ascent, metric_2_1_subspace
from largebatch.sharpness._search import Finding
from largebatch.sharpness._worst_case import ADAPTIVE, adaptive_linf, asam, sam

__all__ = ["SHARPNESS", "Kind", "Options", "resolve", "sharpness", "sharpness_all"]

Options = Mapping[str, Any]

NOTHING = "no rescaling of layers: that of Dinh et al. 2017 changes it"


@dataclass(frozen=True)
class Kind:
    """One way to measure sharpness.

    Args:
        measure: `(risk, seed, bar, **options) -> Finding`; its keyword arguments are the options.
        evaluations: of the loss, by options: with gradient and without. What is not one, is counted as what it costs.
        vectors: of P numbers that it holds at once beside the model, in the dtype of the weights, by options.
        paper: whose it is.
        unchanged_by: the rescalings of a network that leave it as it is, with the default options.
    """

    measure: Callable[..., Finding]
    evaluations: Callable[[Options], tuple[float, float]]
    vectors: Callable[[Options], float]
    paper: str
    unchanged_by: str = NOTHING

    @property
    def options(self) -> dict[str, Any]:
        """Option → default."""
        parameters = inspect.signature(self.measure).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


KESKAR = "Keskar et al. 2017, arXiv 1609.04836, Metric 2.1"
LBFGSB_VECTORS = 2 * (
    2 * 10 + 11
)  # SciPy's workspace: 2m + 5 vectors of float64, and its copies of point, slope and bounds

SHARPNESS: Mapping[str, Kind] = MappingProxyType({
    "metric_2_1": Kind(metric_2_1, lambda o: (1 + 2 * o["iterations"], 0), lambda o: LBFGSB_VECTORS, KESKAR),
    "metric_2_1_subspace": Kind(
        metric_2_1_subspace, lambda o: (1 + 2 * o["iterations"], 0), lambda o: o["subspace"] + 5, KESKAR
    ),
    "metric_2_1_ascent": Kind(
        metric_2_1_ascent, lambda o: (o["iterations"], 1), lambda o: 9 + (o["subspace"] or 0), KESKAR
    ),
    "sam": Kind(sam, lambda o: (o["steps"], 1), lambda o: 9, "Foret et al. 2021, arXiv 2010.01412"),
    "asam": Kind(asam, lambda o: (o["steps"], 1), lambda o: 9, "Kwon et al. 2021, arXiv 2102.11600", ADAPTIVE),
    "adaptive_linf": Kind(
        adaptive_linf, lambda o: (o["steps"], 1), lambda o: 9,
        "Andriushchenko et al. 2023, arXiv 2302.07011; Croce and Hein 2020, arXiv 2003.01690", ADAPTIVE,
    ),
    "average": Kind(
        average, lambda o: (0, 1 + 2 * o["pairs"]), lambda o: 6, "Andriushchenko et al. 2023, arXiv 2302.07011"
    ),
    "lambda_max": Kind(lambda_max, lambda o: (20, 1), lambda o: 14, "Lanczos 1950"),
    "trace": Kind(trace, lambda o: (20, 1), lambda o: 10, "Meyer et al. 2021, arXiv 2010.09649 (Hutch++)"),
})  # fmt: skip
"""What can be measured, by name."""


def sharpness(risk: Risk, kind: str = "metric_2_1", *, seed: int = 0, **options: Any) -> Measurement:
    """Measure the sharpness of the present weights, and leave no trace.

    Keskar's own mode is `Risk(…, batch_norm="batch", batch_size=5000)`: the batch statistics of 5,000 samples at a time.

    Args:
        kind: a name in `SHARPNESS`.
        seed: of starting points and random directions.
        options: of the kind, see `SHARPNESS[kind].options`, such as epsilon=5e-4.

    Returns:
        The value with its bounds, the loss at x and the radius among its `details`.

    Raises:
        ValueError: an unknown kind or option, all named; weights or a loss that are not finite, a model that
            gives two answers.
    """
    settings = resolve({kind: options})[kind]
    chosen = SHARPNESS[kind]
    total = math.ceil(sum(chosen.evaluations(settings)))
    with stopwatch(risk) as watch, progress(f"sharpness {kind}", total, "evaluations") as bar:
        found = chosen.measure(risk, seed, bar, **settings)
    return Measurement(
        name=kind,
        value=found.value,
        stderr=found.stderr,
        low=found.low,
        high=found.high,
        seed=seed,
        **watch.conditions(),
        details=found.details,
        unchanged_by=chosen.unchanged_by if found.unchanged_by is None else found.unchanged_by,
        note=found.note,
    )


def sharpness_all(
    risk: Risk, kinds: Iterable[str] | Mapping[str, Options] | None = None, *, seed: int = 0
) -> tuple[Measurement, ...]:
    """Several kinds on the same weights, side by side. `expected_cost` tells beforehand what they take.

    Args:
        kinds: names in `SHARPNESS`, or name → options; None for all with their defaults.
        seed: as for `sharpness`.

    Raises:
        ValueError: as `sharpness`; a mistake in any kind before anything is measured.
    """
    settings = resolve(kinds)
    return tuple(sharpness(risk, kind, seed=seed, **options) for kind, options in settings.items())


def resolve(kinds: Iterable[str] | Mapping[str, Options] | None) -> dict[str, dict[str, Any]]:
    """Kind → all its options, those not given at their default; None for all kinds.

    Raises:
        ValueError: every unknown kind, unknown option and bad value.
    """
    names: Iterable[str] = SHARPNESS if kinds is None else kinds
    requested = kinds if isinstance(kinds, Mapping) else dict[str, Options].fromkeys(names, {})
    mistakes = [f"kind: expected one of {', '.join(SHARPNESS)}, got {kind!r}{_did_you_mean(kind, SHARPNESS)}"
                for kind in requested if kind not in SHARPNESS]  # fmt: skip
    for kind, given in requested.items():
        if kind in SHARPNESS:
            known = SHARPNESS[kind].options
            hints = get_type_hints(SHARPNESS[kind].measure)
            for name, value in given.items():
                if name not in known:
                    mistakes.append(
                        f"{kind}: no option {name!r}; it has {', '.join(known)}{_did_you_mean(name, known)}"
                    )
                elif expected := _expected(hints[name], value):
                    mistakes.append(
                        f"{kind}: {name}: expected {expected}, got {value!r}; the default is {known[name]!r}"
                    )
    if mistakes:
        raise ValueError("\n  ".join([f"sharpness: {len(mistakes)} mistake(s)", *mistakes]))
    return {kind: SHARPNESS[kind].options | dict(given) for kind, given in requested.items()}


def _expected(hint: Any, value: Any) -> str:
    """What an option of this type should have been; "" where it is."""
    if get_origin(hint) is Literal:
        return "" if value in get_args(hint) else f"one of {', '.join(map(repr, get_args(hint)))}"
    if hint is bool:
        return "" if isinstance(value, bool) else "True or False"
    if value is None and type(None) in get_args(hint):
        return ""
    types, words = (int | float, "a positive number") if hint is float else (int, "a positive whole number")
    is_number = isinstance(value, types) and not isinstance(value, bool)
    return "" if is_number and 0 < cast(float, value) < math.inf else words


def _did_you_mean(given: str, names: Iterable[str]) -> str:
    near = get_close_matches(given, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
