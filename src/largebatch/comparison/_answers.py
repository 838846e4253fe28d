"""What the built-in studies say at the end: sentences made from their tables, hedged as far as the intervals require.

What an interval excludes is claimed, all else is "not told apart"; fewer than three seeds claim nothing. Of many measures a
sentence tells how many agree, and the extremes; the rest stands in the tables.
"""

from collections.abc import Sequence

from largebatch.comparison._correlate import FEW_CELLS
from largebatch.comparison._findings import ContrastRow, StudyResult
from largebatch.comparison._names import measure_name
from largebatch.comparison._values import excludes, negative, per_cent

__all__ = ["TOO_FEW", "contrast_sentences", "open_question_answer"]

TOO_FEW = "too few runs"
SINGLY, LISTED = 2, 4  # exploratory contrasts of one question: told one by one; named of those told apart
TOLD = ("differs", "closes some of it", "widens it", "as good within the margin", "worse", "goes with it", "breaks")

TOPICS = {
    "gap": "the gap of SGD",
    "recipe": "what Goyal's recipe closes of SGD's gap",
    "recipe, equal updates": "whether the recipe is as good at equal updates",
    "kept, equal updates": "what more updates close of SGD's gap",
    "Keskar's gap": "the gap of Keskar's protocol",
    "Keskar's protocol": "what the recipe closes of Keskar's gap",
    "recovered minimum": "whether what the recipe finds is sharper",
    "early gradients": "how accurate early gradients are",
    "gradient descent": "what gradient descent costs",
    "convex gap": "the gap of the convex control",
}
"""Contrast of the open question → what it is about."""

SIGNS = {
    "cos(g_batch, g_full) after one epoch and accuracy": "the accuracy of early gradients, cos(g_batch, g_full)",
    "cos(g_t, g_t+j) after one epoch and accuracy": "how long an early gradient stays what it was, cos(g_t, g_t+j)",
    "largest η·λ_max and accuracy": "the largest η·λ_max on the way",
    "λ_max after one epoch and accuracy": "λ_max after one epoch",
}
"""Correlation of the open question → the sign it looks for."""


def contrast_sentences(tables: StudyResult) -> tuple[str, ...]:
    """The contrasts that were named beforehand, then the exploratory ones by their question; what is not known last."""
    if not tables.contrasts:
        return _best(tables)
    known = [row for row in tables.contrasts if row.verdict != TOO_FEW]
    questions = dict.fromkeys(row.question for row in known if not row.primary)
    explored = [text for question in questions for text in _explored(question, known)]
    names = [row.name for row in tables.contrasts if row.verdict == TOO_FEW]
    return (*(row.sentence for row in known if row.primary), *explored, *_unknown(names, not known))


def open_question_answer(tables: StudyResult) -> tuple[str, ...]:
    """Gap, share closed, curves, sharp or flat by each metric, what goes with it, the control, and what remains."""
    found = {row.name: row for row in tables.contrasts if row.verdict != TOO_FEW}
    unknown = [words for name, words in TOPICS.items() if (row := tables.contrast(name)) and row.name not in found]
    sentences = [
        _gap(found.get("gap"), "With SGD and nothing changed but the batch, at equal epochs, the large batch"),
        _share(found.get("recipe"), "Goyal's recipe (linear rule, gradual warmup, ghosts)"),
        _curves(found),
        _as_good(found.get("recipe, equal updates")),
        _share(
            found.get("kept, equal updates"), "Training for as many updates as the small batch, nothing else changed,"
        ),
        _gap(found.get("Keskar's gap"), "By Keskar's protocol (Adam, rate kept) the large batch"),
        _share(found.get("Keskar's protocol"), "In that protocol Goyal's recipe (rate × √k, gradual warmup, ghosts)"),
        _sharpness(found, "kept", "The large batch's minimum with nothing changed"),
        _sharpness(found, "recipe", "The minimum that the recipe finds"),
        _early(found.get("early gradients")),
        _signs(found),
        _gap(found.get("gradient descent"), "Gradient descent on the whole data set"),
        _gap(found.get("convex gap"), "In the convex control (softmax regression on the same data) the large batch"),
        *_unknown(unknown, not found),
        _remains(tables),
    ]
    return tuple(sentence for sentence in sentences if sentence)


def _gap(row: ContrastRow | None, subject: str) -> str:
    if row is None:
        return ""
    gap = row.estimate if row.metric.endswith("accuracy") else negative(row.estimate)
    if excludes(gap, 0.0):
        word, size = ("worse", gap) if gap.low > 0 else ("better", negative(gap))
        return f"{subject} is {word}, by {size} of {measure_name(row.metric)}{_doubt(row)}."
    return f"{subject} is not told apart from the small batch ({gap}{_needed(row)})."


def _share(row: ContrastRow | None, subject: str) -> str:
    if row is None:
        return ""
    share = row.estimate
    if row.verdict == "no gap":
        return f"{subject}: no gap here to close."
    told = per_cent(share)
    if not excludes(share, 0.0):
        return f"{subject} closes {told} of the gap, not told apart from none{_needed(row)}."
    if share.high < 0:
        return f"{subject} widens the gap, by {per_cent(negative(share))} of it{_doubt(row)}."
    rest = "not all of it" if share.high < 1 else "more than all of it" if share.low > 1 else "perhaps all of it"
    return f"{subject} closes {told} of the gap, {rest}{_doubt(row)}."


def _as_good(row: ContrastRow | None) -> str:
    if row is None:
        return ""
    subject, difference = "The recipe at as many updates as the small batch", f"difference {row.estimate}"
    within = f"within {row.margin:g} {row.estimate.unit}".strip()
    if row.verdict == "as good within the margin":
        return f"{subject} is as good as it, {within} ({difference})."
    if row.verdict == "worse":
        return f"{subject} is worse than it, not {within} ({difference})."
    if row.verdict == "not after correction":
        return f"{subject} is as good as it, {within} ({difference}){_doubt(row)}."
    return f"{subject}: that it is as good, {within}, is not shown ({difference}{_needed(row)})."


def _curves(found: dict[str, ContrastRow]) -> str:
    rows = [row for name, row in found.items() if name.startswith("curves at")]
    apart = [row for row in rows if excludes(row.estimate, 0.0)]
    if not rows:
        return ""
    if not apart:
        told = _listed([row.name.removeprefix("curves ") for row in rows])
        return (
            f"The training curves of the recipe and of the small batch are not told apart {told} of the run; Goyal et al. "
            "report that they match."
        )
    is_above = {row.estimate.low > 0 for row in apart}
    side = "apart" if len(is_above) > 1 else "higher" if True in is_above else "lower"
    sizes = [row.estimate if side != "lower" else negative(row.estimate) for row in apart]
    told = [f"by {size} {row.name.removeprefix('curves ')}" for row, size in zip(apart, sizes, strict=True)]
    return (
        "The training curves of the recipe and of the small batch do not coincide: the recipe's train loss is "
        f"{side} {_listed(told)} of the run."
    )


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _sharpness(found: dict[str, ContrastRow], side: str, subject: str) -> str:
    """How many of the measures call it sharper, flatter, neither; the extremes of each."""
    rows = [row for name, row in found.items() if name.startswith(f"{side} ÷ small, ")]
    sharper = [row for row in rows if excludes(row.estimate, 1.0) and row.estimate.low > 1]
    flatter = [row for row in rows if excludes(row.estimate, 1.0) and row.estimate.high < 1]
    if not rows:
        return ""
    rest = len(rows) - len(sharper) - len(flatter)
    if rest == len(rows):
        return f"{subject} is not told apart from the small batch's by any of {rest} measures of sharpness."
    than, parts = " than the small batch's", list[str]()
    for word, group in (("sharper", sharper), ("flatter", flatter)):
        if group:
            count = "all" if len(group) == len(rows) else f"{len(group)} of"
            parts.append(f"{word}{'' if parts else than} by {count} {len(rows)} measures, {_extremes(group)}")
    parts += [f"not told apart by {rest}"] if rest else []
    return f"{subject} is {'; '.join(parts)}."


def _extremes(rows: Sequence[ContrastRow]) -> str:
    """The least and the largest ratio."""
    ordered = sorted(rows, key=lambda row: row.estimate.value)
    told = [f"{row.estimate} times ({measure_name(row.metric)})" for row in (ordered[0], ordered[-1])]
    return told[0] if len(rows) == 1 else f"from {told[0]} to {told[1]}"


def _early(row: ContrastRow | None) -> str:
    if row is None:
        return ""
    subject = "After one epoch the large batch's gradients are"
    if not excludes(row.estimate, 0.0):
        return f"{subject} not told apart from the small batch's in accuracy, cos(g_batch, g_full): {row.estimate}."
    word, size = ("more", row.estimate) if row.estimate.low > 0 else ("less", negative(row.estimate))
    return f"{subject} {word} accurate than the small batch's, by {size} in cos(g_batch, g_full)."


def _signs(found: dict[str, ContrastRow]) -> str:
    """What goes with the accuracy at the end."""
    rows = {words: found[name] for name, words in SIGNS.items() if name in found}
    if not rows:
        return ""
    first = next(iter(rows.values()))
    about = measure_name(first.metric)
    over = f"over the {len(first.cells)} cells of SGD with the large batch at equal epochs"
    if first.verdict == FEW_CELLS:
        return f"Whether signs in training go with the final {about} is not asked {over}: {FEW_CELLS}."
    told = [
        f"{words} goes with {'higher' if row.estimate.low > 0 else 'lower'} {about} (rank correlation {row.estimate})"
        for words, row in rows.items() if row.verdict == "goes with it"
    ]  # fmt: skip
    rest = [words for words, row in rows.items() if row.verdict != "goes with it"]
    if not told:
        return f"None of {len(rows)} signs in training goes with the final {about} beyond chance, {over}."
    others = f"; not told apart from chance: {'; '.join(rest)}" if rest else ""
    return f"Exploratory, and no cause: {over}, {'; '.join(told)}{others}."


def _remains(tables: StudyResult) -> str:
    open_rows = [row for row in tables.contrasts if row.primary and row.seeds_needed is not None]
    lost = [cell.name for cell in tables.cells if cell.diverged]
    parts: list[str] = []
    if open_rows:
        told = ", ".join(f"{TOPICS.get(row.name, row.name)} (about {row.seeds_needed} seeds)" for row in open_rows)
        parts.append(f"not settled: {told}")
    if lost:
        parts.append(f"diverged, at least in part: {', '.join(lost)}")
    if not tables.complete:
        missing = sum(row.status in ("missing", "failed") for row in tables.runs)
        runs = f"{missing} of {len(tables.runs)} runs are missing" if missing else "some runs are not yet measured"
        parts.append(runs)
    return f"What remains: {'; '.join(parts)}." if parts else ""


def _explored(question: str, known: Sequence[ContrastRow]) -> list[str]:
    """Exploratory contrasts of one question: one by one where they are few, else those that are told apart."""
    rows = [row for row in known if row.question == question and not row.primary]
    if len(rows) <= SINGLY:
        return [f"Exploratory, {row.sentence}" for row in rows]
    told = [row for row in rows if row.verdict in TOLD]
    asked = f"Exploratory, {question} {len(told)} of {len(rows)} are told apart from chance"
    named = sorted(told, key=lambda row: row.estimate.value, reverse=True)
    shown = [f"{row.name} {row.shown}" for row in named[:LISTED]]
    more = [f"{len(told) - LISTED} more in the table"] if len(told) > LISTED else []
    return [f"{asked}{': ' if told else ''}{'; '.join([*shown, *more])}."]


def _best(tables: StudyResult) -> tuple[str, ...]:
    """Where nothing was asked: the highest mean, and no claim."""
    scored = [cell for cell in tables.cells if "test_accuracy" in cell.estimates]
    best = max(scored, key=lambda cell: cell.estimates["test_accuracy"].value, default=None)
    if best is None:
        return ()
    return (f"The highest mean test accuracy is that of {best.name}, {best.estimates['test_accuracy']}; no comparison "
            "was named, so none is judged.",)  # fmt: skip


def _unknown(names: Sequence[str], is_all: bool) -> tuple[str, ...]:
    """What cannot be judged."""
    if not names:
        return ()
    if is_all:
        return ("Nothing is judged: no comparison has 3 seeds with a value in all its cells.",)
    return (f"Not known, for want of 3 seeds with a value in all their cells: {'; '.join(names)}.",)


def _doubt(row: ContrastRow) -> str:
    """What Holm's correction took back."""
    return (
        f" (by itself; not after Holm's correction, p = {row.p_holm:.2g})"
        if row.verdict == "not after correction"
        else ""
    )


def _needed(row: ContrastRow) -> str:
    return "" if row.seeds_needed is None else f"; about {row.seeds_needed} seeds would settle it"
