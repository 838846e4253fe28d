"""What the built-in studies say at the end: sentences made from their tables, hedged as far as the intervals require."""

import math

from largebatch.results import Estimate
from largebatch.study._findings import ContrastRow, StudyResult

__all__ = ["contrast_sentences", "open_question_answer"]

PREDICTORS = {
    "early batch_cosine and accuracy": "the accuracy of early gradients, cos(g_batch, g_full)",
    "early step_cosine and accuracy": "how long an early gradient stays what it was, cos(g_t, g_t+j)",
    "largest sharpness_times_lr and accuracy": "the largest η·λ_max on the way",
    "early lambda_max and accuracy": "early curvature λ_max",
}


def contrast_sentences(tables: StudyResult) -> tuple[str, ...]:
    """The contrasts that were named beforehand, then the exploratory ones; or the best cell where there are none."""
    if tables.contrasts:
        explored = [f"{row.sentence}, exploratory" for row in tables.contrasts if not row.primary]
        return (*(row.sentence for row in tables.contrasts if row.primary), *explored)
    scored = [cell for cell in tables.cells if "test_accuracy" in cell.estimates]
    best = max(scored, key=lambda cell: cell.estimates["test_accuracy"].value, default=None)
    return (
        () if best is None else (f"the best test accuracy is that of {best.name}: {best.estimates['test_accuracy']}",)
    )


def open_question_answer(tables: StudyResult) -> tuple[str, ...]:
    """Gap, share closed, curves, sharp or flat by each metric, what predicts it, the control, and what remains."""
    sentences = [
        _gap(tables, "gap", "SGD, nothing changed: batch for batch at equal epochs the large one"),
        _share(tables, "recipe", "Goyal's recipe (linear rule, gradual warmup, ghosts)"),
        _curves(tables),
        _as_good(tables),
        _share(tables, "kept, equal updates", "Training for as many updates, with nothing else changed,"),
        _gap(tables, "Keskar's gap", "Keskar's protocol (Adam, rate kept): the large batch"),
        _share(tables, "Keskar's protocol", "With Goyal's recipe (rate × √k, gradual warmup, ghosts) Adam"),
        _sharpness(tables, "kept", "The large batch's minimum with nothing changed"),
        _sharpness(tables, "recipe", "The minimum that the recipe finds"),
        _early(tables),
        _predictors(tables),
        _gap(tables, "gradient descent", "Gradient descent on the whole data set"),
        _gap(tables, "convex gap", "Convex control (softmax regression on the same data): the large batch"),
        _remains(tables),
    ]
    return tuple(sentence for sentence in sentences if sentence)


def _gap(tables: StudyResult, name: str, subject: str) -> str:
    row = tables.contrast(name)
    if row is None or math.isnan(row.estimate.low):
        return _unknown(row, subject)
    gap = row.estimate
    if gap.low > 0:
        return f"{subject} is worse, by {gap} of test accuracy."
    if gap.high < 0:
        return f"{subject} is better, by {_negative(gap)} of test accuracy."
    return f"{subject} is not told apart from the small one: no gap here ({gap}){_needed(row)}."


def _share(tables: StudyResult, name: str, subject: str) -> str:
    row = tables.contrast(name)
    if row is None or row.verdict == "too few runs":
        return _unknown(row, subject)
    if math.isnan(row.estimate.value):
        return f"{subject}: no gap here to close."
    share = row.estimate
    interval = f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"
    if share.low > 0:
        rest = " What remains is not told apart from 0." if share.high >= 1 else ""
        return f"{subject} closes {interval} of the gap.{rest}"
    return f"{subject} closes {interval} of the gap, not told apart from none{_needed(row)}."


def _as_good(tables: StudyResult) -> str:
    row = tables.contrast("recipe, equal updates")
    subject = "The recipe at as many updates as the small batch"
    if row is None or row.verdict == "too few runs":
        return _unknown(row, subject)
    if row.verdict == "as good within the margin":
        return f"{subject} is as good as it, within {row.margin:g} points (difference {row.estimate})."
    if row.verdict == "worse":
        return f"{subject} is worse than it by more than {row.margin:g} points (difference {row.estimate})."
    told = f"is not shown (difference {row.estimate}){_needed(row)}"
    return f"{subject}: that it is as good, within {row.margin:g} points, {told}."


def _curves(tables: StudyResult) -> str:
    rows = [row for row in tables.contrasts if row.name.startswith("curves at") and not math.isnan(row.estimate.low)]
    if not rows:
        return ""
    apart = [row for row in rows if row.verdict == "differs"]
    shown = ", ".join(f"{row.estimate} {row.name.removeprefix('curves ')}" for row in apart or rows)
    said = "do not coincide" if apart else "are not told apart, as Goyal says they should be"
    return f"The training curves of the recipe and of the small batch {said}: train loss differs by {shown} of the run."


def _sharpness(tables: StudyResult, side: str, subject: str) -> str:
    rows = [
        row for row in tables.contrasts if row.name.startswith(f"{side} ÷ small, ") and not math.isnan(row.estimate.low)
    ]
    if not rows:
        return ""
    groups = {
        "sharper": [row for row in rows if row.estimate.low > 1],
        "flatter": [row for row in rows if row.estimate.high < 1],
        "not told apart": [row for row in rows if row.estimate.low <= 1 <= row.estimate.high],
    }
    parts = [f"{word} by {', '.join(map(_ratio, group))}" for word, group in groups.items() if group]
    return f"{subject}, against the small batch's: {'; '.join(parts)}."


def _early(tables: StudyResult) -> str:
    row = tables.contrast("early gradients")
    if row is None or math.isnan(row.estimate.low):
        return ""
    gap = row.estimate
    certain = "more accurate than" if gap.low > 0 else "less accurate than"
    word = "not told apart in accuracy from" if gap.low <= 0 <= gap.high else certain
    cosines = f"cos(g_batch, g_full) differs by {gap}"
    return f"After one epoch the large batch's gradients are {word} the small batch's: {cosines}."


def _predictors(tables: StudyResult) -> str:
    found = [(words, row) for name, words in PREDICTORS.items() if (row := tables.contrast(name)) is not None]
    found = [(words, row) for words, row in found if not math.isnan(row.estimate.low)]
    if not found:
        return ""
    shown = "; ".join(f"{words}: {row.estimate} ({row.verdict})" for words, row in found)
    return (
        f"What goes with the final accuracy over the cells of SGD (rank correlation within seeds, no cause): {shown}."
    )


def _remains(tables: StudyResult) -> str:
    open_rows = [row for row in tables.contrasts if row.primary and row.seeds_needed is not None]
    lost = [cell.name for cell in tables.cells if cell.diverged]
    parts: list[str] = []
    if open_rows:
        parts.append("not settled: " + ", ".join(f"{row.name} (about {row.seeds_needed} seeds)" for row in open_rows))
    if lost:
        parts.append(f"diverged, at least in part: {', '.join(lost)}")
    if not tables.complete:
        missing = sum(row.status in ("missing", "failed") for row in tables.runs)
        parts.append(f"{missing} of {len(tables.runs)} runs are missing or not yet measured")
    return f"What remains: {'; '.join(parts)}." if parts else ""


def _unknown(row: ContrastRow | None, subject: str) -> str:
    return "" if row is None else f"{subject}: not known, {row.estimate.note or 'too few runs'}."


def _needed(row: ContrastRow) -> str:
    return "" if row.seeds_needed is None else f"; about {row.seeds_needed} seeds would settle it"


def _ratio(row: ContrastRow) -> str:
    return f"{row.metric} {row.estimate}"


def _negative(gap: Estimate) -> Estimate:
    return Estimate(-gap.value, gap.stderr, -gap.high, -gap.low, gap.n, gap.unit, gap.level, gap.note)
