"""Diagnosis: the answer to "my large-batch model is worse, why?", and what it will cost to find out."""

import math
from dataclasses import dataclass

from largebatch.diagnose._evidence import Evidence, Row, Verdict
from largebatch.diagnose._hypotheses import HYPOTHESES, judge
from largebatch.diagnose._judge_minimum import sharpness_ratios
from largebatch.landscape import Path
from largebatch.results import Cell, Estimate, Result, Table

__all__ = ["Diagnosis", "DiagnosisCost", "diagnosis"]


@dataclass(frozen=True)
class DiagnosisCost(Result):
    """What a diagnosis has still to measure.

    Args:
        measurements: how many groups of numbers are due.
        passes: forward and backward over the subset. Searches that stop by themselves may take twice as many.
        seconds: at the speed of the pass that was timed.
        memory_bytes: beside the data: vectors of the size of the model, and the activations of the subset.
    """

    measurements: int
    passes: float
    seconds: float
    memory_bytes: int

    def text(self) -> str:
        """One line."""
        if not self.passes:
            return "everything is measured already: judging anew\n"
        minutes, rest = divmod(round(self.seconds), 60)
        time = f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
        return (
            f"{self.measurements} measurements to make: about {self.passes:.0f} passes over the subset, {time}, "
            f"{self.memory_bytes / 2**20:.0f} MiB\n"
        )


@dataclass(frozen=True)
class Diagnosis(Result):
    """Why the large batch generalises worse, if it does.

    Args:
        small, large: names of the runs.
        small_batch_size, large_batch_size: global.
        metric: what the gap is one of: "accuracy" (then in points of error) or "loss".
        gap: test error, large − small.
        hypotheses: one verdict each, in the order of `HYPOTHESES`.
        sharpness: large ÷ small of every measure, by "name [batch-norm mode]".
        measurements: what they rest on besides the logs.
        paths: "line" and "curve" from a small to a large solution.
        notes: runs left out, and the like.
        folder: where the evidence is; None: nowhere.
    """

    task: str
    small: tuple[str, ...]
    large: tuple[str, ...]
    small_batch_size: int
    large_batch_size: int
    metric: str
    gap: Estimate
    hypotheses: tuple[Verdict, ...]
    sharpness: dict[str, Estimate]
    measurements: tuple[Row, ...]
    paths: dict[str, Path]
    notes: tuple[str, ...] = ()
    folder: str | None = None

    def text(self) -> str:
        """The verdict in words, the table, then evidence and advice for each hypothesis."""
        columns = ["hypothesis", "verdict", "effect", "seeds"]
        cells: list[list[Cell]] = [
            [HYPOTHESES[v.name], v.verdict, None if math.isnan(v.effect) else v.estimate, v.n] for v in self.hypotheses
        ]
        ratios = [(name, None if math.isnan(ratio.value) else ratio) for name, ratio in self.sharpness.items()]
        sharp = ["", Table(["sharpness", "large ÷ small"], ratios).text()] if ratios else []
        details = [f"{HYPOTHESES[v.name]}: {v.verdict}\n  {v.evidence}\n  → {v.advice}" for v in self.hypotheses]
        head = f"{self.task}, batch {self.small_batch_size} against {self.large_batch_size}"
        notes = [f"note: {note}" for note in self.notes]
        where = [f"evidence: {self.folder}"] if self.folder else []
        return "\n".join(
            [head, self.sentence(), "", Table(columns, cells).text(), *sharp, "", *details, *notes, *where, ""]
        )

    def sentence(self) -> str:
        """The answer in words."""
        what = "test error" if self.metric == "accuracy" else "test loss"
        true, false = (
            ", ".join(HYPOTHESES[v.name] for v in self.hypotheses if v.verdict == kind)
            for kind in ("supported", "contradicted")
        )
        supported = f"supported: {true}" if true else "no hypothesis is supported"
        if math.isnan(self.gap.low):
            return f"Whether there is a gap cannot be told ({self.gap.note}); {supported}."
        if self.gap.low <= 0:
            why = "the large batch is better" if self.gap.high < 0 else "its interval holds 0"
            return (
                f"No gap here: {what} large − small is {self.gap}, {why}. "
                f"The verdicts describe the large batch, and explain nothing; {supported}."
            )
        contradicted = f"; contradicted: {false}" if false else ""
        return f"The large batch is worse: {what} large − small is {self.gap}. {supported.capitalize()}{contradicted}."


def diagnosis(
    evidence: Evidence, *, paths: dict[str, Path] | None = None, notes: tuple[str, ...] = (), folder: str | None = None
) -> Diagnosis:
    """Judge from the tables alone."""
    small, large = evidence.small[0], evidence.large[0]
    return Diagnosis(
        task=small.task,
        small=tuple(run.name for run in evidence.small),
        large=tuple(run.name for run in evidence.large),
        small_batch_size=small.settings.global_batch_size,
        large_batch_size=large.settings.global_batch_size,
        metric=evidence.metric,
        gap=evidence.gap,
        hypotheses=judge(evidence),
        sharpness={f"{name} [{mode}]": ratio for (name, mode), ratio in sharpness_ratios(evidence).items()},
        measurements=evidence.rows,
        paths=paths or {},
        notes=notes,
        folder=folder,
    )
