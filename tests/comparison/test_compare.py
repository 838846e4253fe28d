"""Judging from stored tables: what is said follows from the numbers, and no more than they allow."""

import math
from dataclasses import replace

import numpy as np
import pytest

from largebatch.comparison import Cell, CellRow, Contrast, LookRow, MeasureRow, RunRow, Study, StudyResult, judge
from largebatch.comparison._break_point import break_point
from largebatch.comparison._correlate import correlation, spearman
from largebatch.comparison._values import values_of
from largebatch.recipe import Recipe

RECIPE = Recipe(16, lr=0.1, ghost_batch_size=None)


def tables(accuracies, looks=(), measures=()):
    """A result as `Collector` leaves it, from cell → accuracies in % by seed (None: diverged)."""
    runs = [
        RunRow(cell, seed, f"{cell}{seed}", "diverged" if value is None else "finished",
               metrics={} if value is None else {"test_accuracy": value / 100, "test_loss": 1 - value / 100})
        for cell, values in accuracies.items() for seed, value in enumerate(values)
    ]  # fmt: skip
    cells = [
        CellRow(name, "", "t", "network", index == 0, 16, "sgd", 0.1, "none", None, 10, 160, 1.6e-4, {})
        for index, name in enumerate(accuracies)
    ]
    seeds = tuple(range(max(map(len, accuracies.values()))))
    return StudyResult("s", "?", "t", seeds, True, (), tuple(cells), (), tuple(runs), tuple(measures), tuple(looks))


def judged(accuracies, *contrasts, **more):
    study = Study("s", "t", tuple(Cell(name, RECIPE) for name in accuracies), (0, 1, 2), contrasts)
    return judge(study, tables(accuracies, **more))


SMALL = [97.0, 97.5, 96.8, 97.2, 97.1]
LARGE = [95.0, 95.6, 94.7, 95.3, 95.2]


def test_a_difference_is_told_with_its_interval_and_its_cell_has_the_gap():
    found = judged({"small": SMALL, "large": LARGE}, Contrast("gap", "?", "small", "large", primary=True))
    row = found.contrast("gap")
    assert row.verdict == "differs"
    assert row.estimate.value == pytest.approx(1.96)
    assert row.estimate.unit == "points"
    assert found.cell("large").gap.value == pytest.approx(1.96)
    assert found.cell("small").gap is None
    assert found.cell("small").estimates["test_accuracy"].value == pytest.approx(97.12)
    assert "1.96" in found.answer[0]


def test_what_is_not_told_apart_says_how_many_seeds_would_tell():
    found = judged({"a": [1.0, 2.0, 3.0], "b": [1.5, 1.0, 3.2]}, Contrast("c", "?", "a", "b", primary=True))
    row = found.contrast("c")
    assert row.verdict == "not told apart"
    assert row.seeds_needed > 3
    assert f"about {row.seeds_needed} seeds would settle it" in row.sentence


def test_two_seeds_compare_nothing():
    row = judged({"a": [1.0, 2.0], "b": [1.5, 1.0]}, Contrast("c", "?", "a", "b")).contrast("c")
    assert row.verdict == "too few runs"
    assert math.isnan(row.estimate.low)
    assert "2 of at least 3 seeds" in row.sentence


def test_worse_is_told_by_its_own_interval():
    """The p of non-inferiority is that of the opposite, and would read as a doubt."""
    contrast = Contrast("as good", "?", "large", "small", kind="non-inferiority", margin=0.5, primary=True)
    row = judged({"small": SMALL, "large": LARGE}, contrast).contrast("as good")
    assert row.verdict == "worse"
    assert "Holm" not in row.sentence


def test_diverged_runs_have_no_place_in_a_mean_and_pairs_keep_together():
    found = judged({"a": [*SMALL], "b": [None, *LARGE[1:]]}, Contrast("c", "?", "a", "b"))
    assert found.contrast("c").estimate.n == 4
    assert found.contrast("c").estimate.value == pytest.approx(np.mean(np.subtract(SMALL[1:], LARGE[1:])))
    assert (found.cell("b").finished, found.cell("b").diverged) == (4, 1)


def test_seeds_that_agree_to_rounding_tell_nothing_of_their_spread():
    """Accuracies on few samples are often equal; an interval without width would call any difference real."""
    a = [97.0, 97.3, 96.8]
    row = judged({"a": a, "b": [v - 5 / 3 for v in a]}, Contrast("c", "?", "a", "b", primary=True)).contrast("c")
    assert row.verdict == "not told apart"
    assert "1.667 points for every seed, which tells nothing of their spread" in row.sentence
    assert row.seeds_needed is None


def test_a_share_below_zero_widens_the_gap():
    wider = [b - 1.0 - 0.02 * i for i, b in enumerate(LARGE)]
    contrast = Contrast("share", "?", "wider", "large", "small", "share", primary=True)
    row = judged({"small": SMALL, "large": LARGE, "wider": wider}, contrast).contrast("share")
    assert row.verdict == "widens it"
    assert "wider widens the gap of 1.96 [" in row.sentence
    assert f"from large to small by {-100 * row.estimate.value:.0f} % [" in row.sentence
    assert row.estimate.high < 0
    assert row.shown.value == pytest.approx(100 * row.estimate.value)
    assert row.shown.unit == "% of the gap"


def test_many_answers_to_one_question_are_told_by_those_that_differ():
    """Five exploratory differences of one question: two are real; one of another question stands by itself."""
    cells = {"a": SMALL, "b": LARGE} | {name: [v + 0.1 * (-1) ** i * k for i, v in enumerate(SMALL)]
                                        for k, name in enumerate("cde", start=1)}  # fmt: skip
    cells["f"] = [v + 0.5 for v in LARGE]
    contrasts = [Contrast(f"{n} alone", "what does it cost?", "a", n) for n in "bcdef"]
    answer = judged(
        cells, Contrast("gap", "?", "a", "b", primary=True), Contrast("own", "one?", "a", "b"), *contrasts
    ).answer
    assert len(answer) == 3
    assert answer[0].startswith("gap: test accuracy, a is above b by 1.96")
    assert answer[1].startswith("Exploratory, own: test accuracy, a is above b")
    assert answer[2].startswith("Exploratory, what does it cost? 2 of 5 are told apart from chance: b alone 1.96 ")
    assert "f alone 1.46 " in answer[2]
    assert "c alone" not in answer[2]


def test_without_a_comparison_nothing_is_claimed():
    (told,) = judged({"a": SMALL, "b": LARGE}).answer
    assert told.startswith("The highest mean test accuracy is that of a, 97.12")
    assert "none is judged" in told


def test_the_share_of_a_gap_is_that_of_its_means_and_none_without_a_gap():
    half = [(a + b) / 2 + 0.01 * i for i, (a, b) in enumerate(zip(SMALL, LARGE, strict=True))]
    contrast = Contrast("share", "?", "half", "large", "small", "share", primary=True)
    row = judged({"small": SMALL, "large": LARGE, "half": half}, contrast).contrast("share")
    assert row.estimate.value == pytest.approx(0.5 + 0.02 / 1.96, abs=1e-6)
    assert row.verdict == "closes some of it"
    same = [97.1, 97.4, 96.9, 97.3, 97.0]
    row = judged({"small": SMALL, "large": same, "half": half}, contrast).contrast("share")
    assert row.verdict == "no gap"
    assert "no gap here" in row.sentence


@pytest.mark.parametrize("metric", ["test_accuracy", "test_loss"])
def test_where_the_large_batch_is_the_better_one_there_is_no_gap_to_close(metric):
    half = [(a + b) / 2 + 0.01 * i for i, (a, b) in enumerate(zip(SMALL, LARGE, strict=True))]
    contrast = Contrast("share", "?", "half", "large", "small", "share", metric=metric, primary=True)
    row = judged({"small": LARGE, "large": SMALL, "half": half}, contrast).contrast("share")
    assert row.verdict == "no gap"
    assert math.isnan(row.estimate.value)
    assert row.seeds_needed is None
    assert f"large is better than small by {'1.96' if metric == 'test_accuracy' else '0.0196'}" in row.sentence


def test_as_good_as_needs_its_margin():
    contrast = Contrast("as good", "?", "large", "small", kind="non-inferiority", margin=0.5, primary=True)
    near = [value - 0.1 + 0.05 * (-1) ** i for i, value in enumerate(SMALL)]
    assert judged({"small": SMALL, "large": near}, contrast).contrast("as good").verdict == "as good within the margin"
    assert judged({"small": SMALL, "large": LARGE}, contrast).contrast("as good").verdict == "worse"
    wide = [value - 0.2 + 1.0 * (-1) ** i for i, value in enumerate(SMALL)]
    row = judged({"small": SMALL, "large": wide}, contrast).contrast("as good")
    assert row.verdict == "not shown"
    assert row.seeds_needed > 5


def test_a_loss_is_as_good_when_it_is_lower():
    contrast = Contrast("c", "?", "b", "a", kind="non-inferiority", metric="test_loss", margin=0.005)
    row = judged({"a": SMALL, "b": [v + 0.1 + 0.01 * i for i, v in enumerate(SMALL)]}, contrast).contrast("c")
    assert row.verdict == "as good within the margin"


def test_holm_takes_back_what_one_of_five_questions_would_have_claimed():
    """A p of 0.03 stands alone, and not beside four questions that are as doubtful."""
    generator = np.random.default_rng(5)
    cells = {"a": SMALL} | {name: list(np.array(SMALL) - 0.5 - generator.normal(0, 0.32, 5)) for name in "bcdef"}
    alone = judged(cells, Contrast("ab", "?", "a", "b", primary=True))
    together = judged(cells, *(Contrast(f"a{n}", "?", "a", n, primary=True) for n in "bcdef"))
    explored = judged(cells, *(Contrast(f"a{n}", "?", "a", n) for n in "bcdef"))
    p = sorted(row.p for row in together.contrasts)
    assert min(row.p_holm for row in together.contrasts) == pytest.approx(min(1, 5 * p[0]))
    for row in together.contrasts:
        assert row.p_holm >= row.p
        if row.verdict == "differs":
            assert row.p_holm <= 0.05
        elif row.p <= 0.05:
            assert row.verdict == "not after correction"
    assert any(row.verdict == "not after correction" for row in together.contrasts)
    assert alone.contrasts[0].p_holm == alone.contrasts[0].p
    assert all(math.isnan(row.p_holm) for row in explored.contrasts)


def test_a_ratio_reads_measurements():
    measures = [
        MeasureRow(cell, seed, f"{cell}{seed}", "lambda_max", value * 1.1**seed, 0.0, "running", 64, 1.0)
        for cell, values in (("small", (2.0, 2.0, 2.0)), ("large", (20.0, 21.0, 20.0 / 1.05)))
        for seed, value in enumerate(values)
    ]  # fmt: skip
    contrast = Contrast("sharp", "?", "large", "small", kind="ratio", metric="lambda_max (running)")
    row = judged({"small": SMALL[:3], "large": LARGE[:3]}, contrast, measures=measures).contrast("sharp")
    assert row.estimate.value == pytest.approx(10)
    assert row.verdict == "differs"


def test_looks_become_numbers_of_the_run():
    looks = [
        LookRow("a", 0, update, epoch, 10, 0.1, {"lambda_max": value})
        for update, epoch, value in ((0, 0.1, 5.0), (9, 0.9, 9.0), (30, 3.0, 2.0))
    ]
    row = values_of(tables({"a": SMALL}, looks=looks))["a"][0]
    assert (row["early lambda_max"], row["largest lambda_max"], row["last lambda_max"]) == (9.0, 9.0, 2.0)


def test_spearman_is_scipys_and_correlation_averages_seeds():
    from scipy import stats

    generator = np.random.default_rng(0)
    by_seed = []
    for _ in range(4):
        x = generator.integers(0, 5, 8)
        by_seed.append(list(zip(map(float, x), (x + generator.normal(0, 1, 8)).tolist(), strict=True)))
    for pairs in by_seed:
        assert spearman(pairs) == pytest.approx(stats.spearmanr(*zip(*pairs, strict=True)).statistic)
    found = correlation(by_seed)
    z = np.arctanh([spearman(pairs) for pairs in by_seed])
    low, high = stats.t.interval(0.95, 3, loc=z.mean(), scale=stats.sem(z))
    assert (found.value, found.low, found.high) == pytest.approx((np.tanh(z.mean()), np.tanh(low), np.tanh(high)))
    assert correlation([[(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]]) is None


def test_a_break_point_is_found_where_it_was_put():
    x = [4, 5, 6, 7, 8, 9, 10]
    assert break_point(x, [97 - 2 * max(0, v - 7.3) for v in x]) == pytest.approx(7.3, abs=0.02)
    assert break_point(x, [97 + 0.5 * v for v in x]) is None
    assert break_point(x, [97.0] * 7) is None


def test_the_break_of_a_sweep_has_an_interval_in_samples():
    batches = [16, 32, 64, 128, 256, 512]
    cells = {f"batch {b}": [97 - 2 * max(0, math.log2(b) - 6 - 0.3 * seed) for seed in range(4)] for b in batches}
    row = judged(cells, Contrast("break", "?", kind="break point", cells=tuple(cells))).contrast("break")
    assert row.verdict == "breaks"
    assert row.estimate.value == pytest.approx(2**6.45, rel=0.02)
    assert row.estimate.low < 64 * 2**0.3 < row.estimate.high
    flat = judged({name: SMALL for name in cells}, Contrast("break", "?", kind="break point", cells=tuple(cells)))
    assert flat.contrast("break").verdict == "no break"


def test_a_break_before_batches_that_diverge_is_found_and_those_are_named():
    cells = {f"batch {2**k}": [97 - 2 * max(0, k - 7) + 0.01 * s for s in range(5)] for k in range(5, 11)}
    whole = judged(cells, Contrast("break", "?", kind="break point", cells=tuple(cells))).contrast("break")
    lost = cells | {"batch 2048": [60.0, math.nan, math.nan, 61.0, math.nan]}
    row = judged(lost, Contrast("break", "?", kind="break point", cells=tuple(lost))).contrast("break")
    assert row.estimate == whole.estimate
    assert "batch 2048 left out: too few seeds finished there" in row.sentence


def test_noise_around_a_level_line_is_no_break():
    """Of 200 sweeps over batches that do not matter at most 5 % are said to break: each bends a little somewhere."""
    generator = np.random.default_rng(11)
    names = [f"batch {b}" for b in (16, 32, 64, 128, 256)]
    contrast = Contrast("break", "?", kind="break point", cells=tuple(names))
    verdicts = [
        judged({name: list(97 + generator.normal(0, 0.3, 5)) for name in names}, contrast).contrast("break").verdict
        for _ in range(200)
    ]
    assert set(verdicts) <= {"breaks", "no break"}
    assert verdicts.count("breaks") <= 10


def test_the_break_of_a_loss_is_where_it_rises():
    batches = [16, 32, 64, 128, 256, 512]
    cells = {f"batch {b}": [97 - 2 * max(0, math.log2(b) - 6 - 0.3 * seed) for seed in range(4)] for b in batches}
    contrast = Contrast("break", "?", kind="break point", metric="test_loss", cells=tuple(cells))
    row = judged(cells, contrast).contrast("break")
    assert row.verdict == "breaks"
    assert row.estimate.value == pytest.approx(2**6.45, rel=0.02)


def test_what_was_judged_comes_back_from_json():
    found = judged({"small": SMALL, "large": LARGE}, Contrast("gap", "?", "small", "large", primary=True))
    assert StudyResult.from_json(found.to_json()) == replace(found)
    assert "gap" in found.text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a/b"}, "name: expected a text without '/'"),
        ({"cells": ()}, "cells: expected at least one, got none"),
        ({"cells": (Cell("x", RECIPE), Cell("x", RECIPE))}, "expected different names, got 'x' twice"),
        ({"seeds": (1, 1)}, "seeds: expected at least one, each once, got \\[1, 1\\]"),
        ({"cells": (Cell("x", RECIPE, reference=True), Cell("y", RECIPE, reference=True))}, "one reference in group"),
        (
            {"contrasts": tuple(Contrast(f"c{i}", "?", "x", "x", primary=True) for i in range(6))},
            "at most 5 primary ones",
        ),
        ({"contrasts": (Contrast("c", "?", "x", "nobody"),)}, "contrast 'c': no cell 'nobody'; there are x"),
        ({"contrasts": (Contrast("c", "?", "x", "x", kind="non-inferiority"),)}, "margin: expected a number above 0"),
        ({"contrasts": (Contrast("c", "?", kind="correlation", cells=("x",)),)}, "at least 3 for a correlation, got 1"),
    ],
)
def test_a_design_that_cannot_be_answered_is_refused(changes, message):
    options = {"name": "s", "subject": "t", "cells": (Cell("x", RECIPE),), "seeds": (0,)}
    with pytest.raises(ValueError, match=message):
        Study(**(options | changes))


def test_fewer_than_five_cells_may_rank_alike_by_chance():
    found = {f"cell {k}": [70.0 + 2 * k + 0.1 * seed for seed in range(4)] for k in range(5)}
    names = tuple(found)
    four, five = (Contrast(f"of {n}", "?", kind="correlation", cells=names[:n], against="test_loss") for n in (4, 5))
    told = judged(found, four, five)
    assert told.contrast("of 4").verdict == "too few cells to tell: it takes 5"
    assert told.contrast("of 4").sentence.endswith("too few cells to tell: it takes 5.")
    assert told.contrast("of 5").verdict == "goes with it"
    assert told.contrast("of 5").estimate.value == pytest.approx(-0.999)


def test_several_mistakes_are_told_together():
    with pytest.raises(ValueError, match="2 mistake") as told:
        Study("a/b", "t", (Cell("x", RECIPE),), ())
    assert "name:" in str(told.value)
    assert "seeds:" in str(told.value)


def test_a_study_without_some_cells_asks_what_is_left():
    cells = tuple(Cell(name, RECIPE) for name in ("a", "b", "b updates", "c"))
    contrasts = (Contrast("ab", "?", "a", "b"), Contrast("au", "?", "a", "b updates"),
                 Contrast("all", "?", kind="correlation", cells=("a", "b", "b updates", "c")))  # fmt: skip
    left = Study("s", "t", cells, (0,), contrasts).without("updates")
    assert [cell.name for cell in left.cells] == ["a", "b", "c"]
    assert [contrast.name for contrast in left.contrasts] == ["ab", "all"]
    assert left.contrasts[1].cells == ("a", "b", "c")
