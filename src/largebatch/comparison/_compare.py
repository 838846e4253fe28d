"""Judging: from stored tables to estimates, contrasts and sentences. Numbers only: nothing here trains or measures.

Every comparison is paired by seed and has its 95 % t-interval; the primary contrasts are corrected by Holm 1979; "as good
as" is said only by non-inferiority with its margin, and a share of a gap only where the gap's own interval excludes 0.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

from largebatch.comparison._answers import contrast_sentences
from largebatch.comparison._break_point import break_point
from largebatch.comparison._correlate import FEW_CELLS, FEWEST_CELLS, correlation
from largebatch.comparison._design import Contrast, Study
from largebatch.comparison._findings import ContrastRow, StudyResult
from largebatch.comparison._names import measure_name
from largebatch.comparison._values import Values, estimated, excludes, negative, paired, per_cent, values_of, varies
from largebatch.results import (
    FEWEST_SEEDS,
    Estimate,
    fieller_share,
    holm,
    mean_interval,
    non_inferiority,
    paired_difference,
    paired_p_value,
    paired_ratio,
    seeds_to_settle,
)

__all__ = ["judge"]

LEVEL = 0.95
FEWEST_BATCHES = 3  # of a break point
LOST = (
    "differs",
    "closes some of it",
    "widens it",
    "as good within the margin",
    "breaks",
)  # verdicts that a correction may undo


class Judgement(NamedTuple):
    """What a contrast came to."""

    estimate: Estimate
    p: float
    verdict: str
    text: str
    seeds_needed: int | None = None


def judge(study: Study, tables: StudyResult) -> StudyResult:
    """The tables with estimates, contrasts and answer filled in."""
    values = values_of(tables)
    judged = replace(
        tables,
        cells=tuple(estimated(cell, tables, values) for cell in tables.cells),
        contrasts=_corrected([_judged(contrast, values) for contrast in study.contrasts]),
    )
    answer = contrast_sentences if study.answer is None else study.answer
    return replace(judged, answer=answer(judged))


def _judged(contrast: Contrast, values: Values) -> ContrastRow:
    found = _KINDS[contrast.kind](contrast, values) or _nothing(contrast, values)
    more = "" if found.seeds_needed is None else f"; about {found.seeds_needed} seeds would settle it"
    return ContrastRow(
        name=contrast.name, question=contrast.question, kind=contrast.kind, a=contrast.a, b=contrast.b,
        metric=contrast.metric, estimate=found.estimate, primary=contrast.primary, margin=contrast.margin, p=found.p,
        p_holm=math.nan, verdict=found.verdict, sentence=f"{contrast.name}: {found.text}{more}.",
        seeds_needed=found.seeds_needed, cells=contrast.cells, published=contrast.published,
    )  # fmt: skip


def _difference(contrast: Contrast, values: Values) -> Judgement | None:
    a, b = paired(values, contrast.metric, [contrast.a, contrast.b])
    if len(a) < FEWEST_SEEDS:
        return None
    found, p, about = paired_difference(a, b, unit=_unit(contrast)), paired_p_value(a, b), measure_name(contrast.metric)
    if excludes(found, 0.0):
        side, size = ("above", found) if found.low > 0 else ("below", negative(found))
        return Judgement(found, p, "differs", f"{about}, {contrast.a} is {side} {contrast.b} by {size}")
    text = f"{about}, {contrast.a} − {contrast.b} is not told apart from 0: {_noted(found)}"
    return Judgement(found, p, "not told apart", text, seeds_to_settle(_minus(a, b)))


def _non_inferiority(contrast: Contrast, values: Values) -> Judgement | None:
    a, b = paired(values, contrast.metric, [contrast.a, contrast.b])
    if len(a) < FEWEST_SEEDS or contrast.margin is None:
        return None
    if contrast.metric.endswith("loss"):
        a, b = [-v for v in a], [-v for v in b]
    found = non_inferiority(a, b, margin=contrast.margin, unit=_unit(contrast))
    within = f"within {contrast.margin:g} {_unit(contrast)}".strip()
    if found.holds:
        verdict, said = "as good within the margin", f"{contrast.a} is as good as {contrast.b}, {within}"
    elif found.difference.high < -contrast.margin:
        verdict, said = "worse", f"{contrast.a} is worse than {contrast.b}, not {within}"
    else:
        verdict, said = "not shown", f"that {contrast.a} is as good as {contrast.b}, {within}, is not shown"
    needed = seeds_to_settle(_minus(a, b), threshold=-contrast.margin) if verdict == "not shown" else None
    return Judgement(found.difference, found.p, verdict, f"{said}; difference {found.difference}", needed)


def _ratio(contrast: Contrast, values: Values) -> Judgement | None:
    both = paired(values, contrast.metric, [contrast.a, contrast.b])
    pairs = [(x, y) for x, y in zip(*both, strict=True) if x > 0 and y > 0]
    if len(pairs) < FEWEST_SEEDS:
        return None
    found = paired_ratio([x for x, _ in pairs], [y for _, y in pairs])
    logs = [math.log(x / y) for x, y in pairs]
    p, about = paired_p_value(logs, [0.0] * len(logs)), f"{measure_name(contrast.metric)}, {contrast.a} ÷ {contrast.b}"
    if excludes(found, 1.0):
        return Judgement(found, p, "differs", f"{about} is {found}")
    text = f"{about} is not told apart from 1: {_noted(found)}"
    return Judgement(found, p, "not told apart", text, seeds_to_settle(logs))


def _share(contrast: Contrast, values: Values) -> Judgement | None:
    a, b, base = paired(values, contrast.metric, [contrast.a, contrast.b, contrast.base])
    if len(a) < FEWEST_SEEDS:
        return None
    part, whole = _minus(a, b), _minus(base, b)
    found, gap = fieller_share(part, whole), mean_interval(whole, unit=_unit(contrast))
    if math.isnan(found.value):
        text = f"no gap here: {contrast.base} − {contrast.b} is {gap}, so there is no share for {contrast.a} to close"
        return Judgement(found, math.nan, "no gap", text, seeds_to_settle(whole))
    if (gain := _gain(contrast, gap)) is not None:
        text = f"no gap here: {contrast.b} is better than {contrast.base} by {gain}, so {contrast.a} has none to close"
        return Judgement(_untold(found.n, "no gap"), math.nan, "no gap", text)
    p, of_gap = paired_p_value(a, b), f"the gap of {gap} from {contrast.b} to {contrast.base}"
    closes = f"{contrast.a} closes {per_cent(found)} of {of_gap}"
    if not excludes(found, 0.0):
        return Judgement(
            found, p, "not told apart from none", f"{closes}, not told apart from none", seeds_to_settle(part)
        )
    if found.low > 0:
        return Judgement(found, p, "closes some of it", closes)
    return Judgement(found, p, "widens it", f"{contrast.a} widens {of_gap} by {per_cent(negative(found))} of it")


def _gain(contrast: Contrast, gap: Estimate) -> Estimate | None:
    """By how much the cell that is to be behind is ahead; None where it is not, or where ahead means nothing."""
    if contrast.metric.endswith("accuracy"):
        return negative(gap) if gap.high < 0 else None
    return gap if contrast.metric.endswith("loss") and gap.low > 0 else None


def _correlation(contrast: Contrast, values: Values) -> Judgement | None:
    by_seed: dict[int, list[tuple[float, float]]] = {}
    for cell in contrast.cells:
        for seed, row in values.get(cell, {}).items():
            pair = (row.get(contrast.against, math.nan), row.get(contrast.metric, math.nan))
            if all(map(math.isfinite, pair)):
                by_seed.setdefault(seed, []).append(pair)
    found = correlation([pairs for pairs in by_seed.values() if len(pairs) >= 3])
    if found is None or found.n < FEWEST_SEEDS:
        return None
    is_told = found.low > 0 or found.high < 0
    verdict = "goes with it" if is_told else "not told apart from chance"
    verdict = verdict if len(contrast.cells) >= FEWEST_CELLS else FEW_CELLS
    about = f"{measure_name(contrast.against)} and {measure_name(contrast.metric)} over {len(contrast.cells)} cells"
    tail = "" if verdict == "goes with it" else f", {verdict}"
    return Judgement(found, math.nan, verdict, f"the rank correlation of {about} is {found}{tail}")


def _break(contrast: Contrast, values: Values) -> Judgement | None:
    """In log₂ of the batch, which stands at the end of the names of the cells.

    Noise bends every line a little, so there is a break only where the largest batch is worse than the smallest. The
    largest ones, where they diverge in too many seeds, are left out, and that is said.
    """
    cells, sign = sorted(contrast.cells, key=_batch), -1.0 if contrast.metric.endswith("loss") else 1.0
    left: list[str] = []
    while len(cells) > FEWEST_BATCHES and len(paired(values, contrast.metric, cells)[0]) < FEWEST_SEEDS:
        left.insert(0, cells.pop())
    told_left = f"; {', '.join(left)} left out: too few seeds finished there" if left else ""
    columns = [[sign * v for v in column] for column in paired(values, contrast.metric, cells)]
    if len(columns[0]) < FEWEST_SEEDS:
        return None
    x, about = [math.log2(_batch(cell)) for cell in cells], measure_name(contrast.metric)
    fall, p = paired_difference(columns[0], columns[-1], unit=_unit(contrast)), paired_p_value(columns[0], columns[-1])
    falls = excludes(fall, 0.0) and fall.low > 0
    bends = [break_point(x, row) for row in zip(*columns, strict=True)] if falls else []
    found = [bend for bend in bends if bend is not None]
    if len(found) < FEWEST_SEEDS:
        lost = f"what it loses there against {cells[0]} is {'' if falls else 'not told apart from 0: '}{_noted(fall)}"
        nothing = _untold(len(columns[0]), "no break")
        return Judgement(nothing, p, "no break", f"no break of {about} up to {cells[-1]}; {lost}{told_left}")
    log = mean_interval(found)
    value, low, high = (2.0**v for v in (log.value, log.low, log.high))
    told = Estimate(value, value * math.log(2) * log.stderr, low, high, log.n, "samples", log.level, log.note)
    without = f"; {len(bends) - len(found)} of {len(bends)} seeds show none" if len(found) < len(bends) else ""
    return Judgement(
        told, p, "breaks", f"{about} is level up to batch {told}, and gets worse beyond{without}{told_left}"
    )


def _batch(cell: str) -> float:
    return float(cell.rsplit(maxsplit=1)[-1])


def _nothing(contrast: Contrast, values: Values) -> Judgement:
    columns = paired(values, contrast.metric, [name for name in (contrast.a, contrast.b) if name] or [""])
    n = len(columns[0])
    value = fmean(_minus(*columns)) if n and len(columns) == 2 and contrast.kind == "difference" else math.nan
    told = f"{n} of at least {FEWEST_SEEDS} seeds have finished in all its cells"
    return Judgement(replace(_untold(n, told), value=value), math.nan, "too few runs", told)


def _untold(n: int, note: str) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, math.nan, n, note=note)


_KINDS: dict[str, Callable[[Contrast, Values], Judgement | None]] = {
    "difference": _difference, "non-inferiority": _non_inferiority, "ratio": _ratio, "share": _share,
    "correlation": _correlation, "break point": _break,
}  # fmt: skip


def _corrected(rows: list[ContrastRow]) -> tuple[ContrastRow, ...]:
    """Primary ones first, with Holm's p."""
    primary = [row for row in rows if row.primary]
    adjusted = holm([row.p for row in primary])
    named = [_with_holm(row, p) for row, p in zip(primary, adjusted, strict=True)]
    return (*named, *(row for row in rows if not row.primary))


def _with_holm(row: ContrastRow, p: float) -> ContrastRow:
    """What holds alone may not hold as one of several questions; that one is worse is told by its own interval."""
    if math.isnan(p):
        return row
    is_lost = row.verdict in LOST and p > 1 - LEVEL
    verdict, tail = ("not after correction", ": not after correction") if is_lost else (row.verdict, "")
    told = "" if row.verdict == "worse" else f" Holm's p = {p:.2g}{tail}."
    return replace(row, p_holm=p, verdict=verdict, sentence=f"{row.sentence}{told}")


def _noted(estimate: Estimate) -> str:
    """With its interval, if it has one."""
    same = f"{estimate.value:.4g} {estimate.unit}".strip()
    return str(estimate) if varies(estimate) else f"{same} for every seed, which tells nothing of their spread"


def _minus(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _unit(contrast: Contrast) -> str:
    return "points" if contrast.metric.endswith("accuracy") else ""
