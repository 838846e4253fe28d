"""Is my own training loop computing the gradient it should?"""

from largebatch.check._conformance import Conformance, ConformanceCase, conformance
from largebatch.check._run import loop
from largebatch.check._watch import Watch
from largebatch.culprits import CULPRITS, CheckResult, Finding
from largebatch.replay import reference

__all__ = [
    "CULPRITS",
    "CheckResult",
    "Conformance",
    "ConformanceCase",
    "Finding",
    "Watch",
    "conformance",
    "loop",
    "reference",
]
