"""Finding and CheckResult: what a check says, as a value, as JSON and in words."""

from dataclasses import dataclass
from typing import Literal

from largebatch.results import Result

__all__ = ["CheckResult", "Finding", "Severity"]

Severity = Literal["wrong", "unusual"]


@dataclass(frozen=True)
class Finding(Result):
    """One mistake or oddity, by name.

    Args:
        culprit: its name, such as "accumulation_not_divided".
        severity: "wrong", or "unusual" for a choice that others make too.
        evidence: what was seen, in words with numbers.
        fix: what to change.
        update: the first update that shows it, from 1; None where it belongs to none.
        rank: whose it is; None for all.
        ratio: how many times the right value it is; None where no ratio says it.
        others: culprits that this run cannot tell from this one.
    """

    culprit: str
    severity: Severity
    evidence: str
    fix: str
    update: int | None = None
    rank: int | None = None
    ratio: float | None = None
    others: tuple[str, ...] = ()

    def text(self) -> str:
        """For reading."""
        names = " or ".join([self.culprit, *self.others])
        return f"{self.severity}: {names}\n  {self.evidence}\n  fix: {self.fix}\n"


@dataclass(frozen=True)
class CheckResult(Result):
    """What was found in a training loop.

    Args:
        verdict: "pass", "fail" where something is wrong, "error" where the loop could not be checked.
        findings: the wrong ones first.
        reason: why it could not be checked, and what to do.
        workers: processes.
        updates: updates watched.
        gradients: of these, how many gradients were held against the reference.
        deviation: largest relative distance of these from the reference; NaN where there was none.
        notes: what this check did not see.
    """

    verdict: Literal["pass", "fail", "error"]
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    workers: int = 1
    updates: int = 0
    gradients: int = 0
    deviation: float = float("nan")
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong; unusual choices pass."""
        return self.verdict == "pass"

    @property
    def culprits(self) -> tuple[str, ...]:
        """Names of what is wrong."""
        return tuple(finding.culprit for finding in self.findings if finding.severity == "wrong")

    def text(self) -> str:
        """For reading."""
        if self.verdict == "error":
            return f"not checked: {self.reason}\n"
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        head = f"{self.verdict}: {workers}, {self.updates} updates"
        if self.gradients:
            head += f", {self.gradients} gradients held against the reference, largest deviation {self.deviation:.1e}"
        return "".join(
            [head + "\n", *(finding.text() for finding in self.findings), *(f"note: {n}\n" for n in self.notes)]
        )

    def __str__(self) -> str:
        return self.text()

    def __bool__(self) -> bool:
        return self.passed
