"""Judges of hypotheses on tables with a planted cause, and what they say where nothing can be said."""

import ast
import math
from dataclasses import replace
from pathlib import Path

import pytest

from largebatch.diagnose import _hypotheses
from largebatch.diagnose._evidence import Evidence, along
from largebatch.diagnose._hypotheses import HYPOTHESES, judge
from largebatch.diagnose._judge_minimum import batch_norm_statistics, saddle, sharp_minimum
from largebatch.diagnose._judge_training import failed_optimisation, near_start, over_fitting
from largebatch.recipe import Recipe
from run_tables import evidence, rows, run

SEEDS = range(4)
GOOD = [{"errors": (0.05 + 0.001 * seed,)} for seed in SEEDS]
WORSE = [{"errors": (0.09 + 0.001 * seed + 0.0005 * (-1) ** seed,)} for seed in SEEDS]  # a gap of 4 points


def wobble(values, share=0.02):
    """Seeds that differ a little."""
    return [value * (1 + share * (-1) ** i * (i + 1) / 2) for i, value in enumerate(values)]


def test_the_gap_is_the_paired_difference_of_test_errors_in_points():
    found = evidence(GOOD, WORSE)
    assert found.gap.value == pytest.approx(4.0, abs=0.06)
    assert found.gap.n == 4
    assert found.has_gap
    assert not evidence(GOOD, GOOD).has_gap
    assert not evidence(WORSE, GOOD).has_gap


def test_a_task_without_accuracy_is_judged_by_its_loss():
    found = evidence(GOOD, WORSE)
    bare = Evidence(*(tuple(replace(r, metrics={"train_loss": 0.1, "test_loss": r.metrics["test_loss"]}) for r in side)
                      for side in (found.small, found.large)))  # fmt: skip
    assert (bare.metric, bare.unit) == ("loss", "")
    assert bare.gap.value == pytest.approx(0.04, abs=1e-3)
    assert over_fitting(bare).verdict == "contradicted"


def test_over_fitting_is_a_held_out_error_that_rises_again():
    rising = [{"errors": (0.2, 0.06, *(0.07,) * 7, options["errors"][0])} for options in WORSE]
    supported = over_fitting(evidence(GOOD, rising))
    assert supported.verdict == "supported"
    assert supported.effect == pytest.approx(100 * (0.0915 - 0.06), abs=0.1)
    assert "stop at the best epoch" in supported.advice
    falling = over_fitting(evidence(GOOD, WORSE))
    assert (falling.verdict, falling.effect) == ("contradicted", 0.0)
    assert "stopping early would not close the gap" in falling.advice


def test_a_cause_that_makes_up_too_little_of_the_gap_does_not_explain_it():
    """Early stopping would win back 0.5 of 4 points: surely more than nothing, surely less than a quarter."""
    slight = [{"errors": (0.2, options["errors"][0] - 0.005, options["errors"][0])} for options in wobble_errors()]
    found = over_fitting(evidence(GOOD, slight))
    assert found.low > 0
    assert found.verdict == "contradicted"


def wobble_errors():
    return [{"errors": (options["errors"][0] + 0.0002 * seed,)} for seed, options in enumerate(WORSE)]


def test_a_cause_is_weighed_against_the_gap_seed_by_seed():
    """Half of each seed's own gap, of gaps that vary threefold: cause − gap/4 is surely positive all the same."""
    gaps = [0.02, 0.03, 0.06, 0.04]
    small = [{"errors": (0.05,)} for _ in gaps]
    large = [{"errors": (0.3, 0.05 + gap / 2, 0.05 + gap)} for gap in gaps]
    assert over_fitting(evidence(small, large)).verdict == "supported"


def test_a_saddle_needs_negative_curvature_and_more_of_it_than_with_the_small_batch():
    def judged(small, large):
        return saddle(evidence(
            GOOD, WORSE,
            rows("small", "lambda_max", [10.0] * 4), rows("small", "lambda_min", wobble([-small] * 4)),
            rows("large", "lambda_max", [10.0] * 4), rows("large", "lambda_min", wobble([-large] * 4)),
        ))  # fmt: skip

    assert judged(0.2, 5.0).verdict == "supported"
    assert judged(0.2, 5.0).effect == pytest.approx(0.5, rel=0.02)
    assert judged(0.2, 0.3).verdict == "contradicted"
    assert judged(9.0, 5.0).verdict == "contradicted"
    assert "train on" in judged(0.2, 5.0).advice


@pytest.mark.parametrize(
    ("small_at", "large_at", "verdict", "advice"),
    [
        (lambda t: math.log(1 + t), lambda t: math.log(1 + t) / 3, "supported", "even at equal updates"),
        (lambda t: t**0.5, lambda t: t**0.5, "supported", "number of updates"),
        (lambda t: 2 + 0.01 * t, lambda t: 3 + 0.1 * t, "contradicted", "as far"),
    ],
)
def test_near_start_tells_the_number_of_updates_from_the_batch(small_at, large_at, verdict, advice):
    found = near_start(evidence(
        [options | {"distance": small_at} for options in GOOD], [options | {"distance": large_at} for options in WORSE]
    ))  # fmt: skip
    assert found.verdict == verdict
    assert advice in found.advice


def test_the_growth_of_the_distance_is_fitted_by_a_logarithm_and_a_power():
    power = near_start(evidence(*([options | {"distance": lambda t: 0.3 * t**0.4} for options in GOOD],) * 2))
    assert "as t^0.40 with R² 1.000" in power.evidence
    logarithm = near_start(
        evidence(*([options | {"distance": lambda t: 2 * math.log(t + 1e-9) + 1} for options in GOOD],) * 2)
    )
    assert "as log t with R² 1.000" in logarithm.evidence


def sharpness_rows(name, ratio, mode="running"):
    return rows("small", name, wobble([2.0] * 4), mode) + rows(
        "large", name, [2.0 * ratio * s for s in (1, 1.02, 0.97, 1.01)], mode
    )


def test_a_sharp_minimum_is_one_on_which_plain_and_adaptive_measures_agree():
    def judged(*parts):
        return sharp_minimum(evidence(GOOD, WORSE, *parts))

    both = judged(sharpness_rows("metric_2_1", 30), sharpness_rows("adaptive_linf", 4))
    assert both.verdict == "supported"
    assert both.effect == pytest.approx(30, rel=0.05)
    assert "SAM" in both.advice
    dinh = judged(sharpness_rows("metric_2_1", 30), sharpness_rows("adaptive_linf", 0.5))
    assert dinh.verdict == "undecided"
    assert "Dinh et al. 2017" in dinh.evidence
    assert "trust no single measure" in dinh.advice
    mixed = judged(sharpness_rows("metric_2_1", 30), sharpness_rows("metric_2_1", 0.2, "batch"))
    assert mixed.verdict == "undecided"
    assert "contradict one another" in mixed.evidence
    flat = judged(sharpness_rows("metric_2_1(epsilon=0.0005)", 0.3), sharpness_rows("asam", 0.5))
    assert flat.verdict == "contradicted"


def test_at_the_edge_of_stability_lambda_max_tells_rates_apart():
    """Nesterov's limit with momentum 0.9 is (2 + 1.8)/(1 + 1.8) = 1.357; the rate is 0.1."""
    at_edge = evidence(
        GOOD, WORSE, rows("small", "lambda_max", wobble([13.0] * 4)), rows("large", "lambda_max", [13.4] * 4)
    )
    assert "both are at the edge of stability" in sharp_minimum(at_edge).evidence
    below = evidence(
        GOOD, WORSE, rows("small", "lambda_max", wobble([1.0] * 4)), rows("large", "lambda_max", [13.4] * 4)
    )
    assert "99 % of the stable limit (large batch) and 7 % (small)" in sharp_minimum(below).evidence
    adam = {"recipe": Recipe(50, lr=0.1, optimizer="adam", duration="10ep")}
    assert "η·λ_max" not in sharp_minimum(replace(below, small=tuple(run("small", s, **adam) for s in SEEDS))).evidence


def test_failed_optimisation_shows_in_the_train_error():
    failed = failed_optimisation(
        evidence(GOOD, [o | {"train_error": 0.04, "losses": (0.9, 0.6)} for o in wobble_errors()])
    )
    assert failed.verdict == "supported"
    assert failed.effect == pytest.approx(3.0)
    assert "farthest apart at epoch 2, 0.6 against 0.1" in failed.evidence
    fitted = failed_optimisation(evidence(GOOD, WORSE))
    assert fitted.verdict == "contradicted"
    assert "between training and test" in fitted.advice


def test_bad_statistics_are_not_taken_for_failed_optimisation():
    """The running statistics ruin the train error; with new ones it is as good as the small batch's."""
    parts = [rows(side, "train_accuracy", wobble([0.99] * 4, 1e-4), "reestimated") for side in ("small", "large")]
    ruined = [o | {"train_error": 0.05} for o in WORSE]
    assert failed_optimisation(evidence(GOOD, ruined)).verdict == "supported"
    assert failed_optimisation(evidence(GOOD, ruined, *parts)).verdict == "contradicted"


def test_diverged_runs_are_evidence():
    lost = [o | {"status": "diverged"} for o in WORSE]
    found = failed_optimisation(evidence(GOOD, lost))
    assert (found.verdict, found.effect, found.unit) == ("supported", 100.0, "% diverged")
    assert "4 large run(s) diverged (runs/large-0: diverged at step 3: the loss is nan at step 4)" in found.evidence
    assert "warm up" in found.advice
    one = failed_optimisation(evidence(GOOD, [lost[0], *WORSE[1:]]))
    assert one.verdict == "contradicted"
    assert "1 large run(s) diverged" in one.evidence
    assert failed_optimisation(evidence(lost, lost)).verdict == "undecided"


def test_early_curvature_and_the_linear_rule_are_told_where_they_were_looked_at():
    edge = ({"update": 1.0, "lambda_max": 40.0, "sharpness_times_lr": 4.0},)
    found = failed_optimisation(evidence(
        GOOD, [o | {"curvature": edge} for o in WORSE],
        rows("small", "linear_rule at the start", [0.5] * 4), rows("small", "linear_rule at the end", [0.02] * 4),
    ))  # fmt: skip
    assert "largest η·λ_max on the way 4" in found.evidence
    assert "‖difference‖ ÷ ‖movement‖ = 0.50 at the start, 0.02 at the end" in found.evidence


def test_batch_norm_statistics_explain_what_new_ones_win_back():
    def judged(anew):
        return batch_norm_statistics(evidence(
            GOOD, WORSE,
            rows("small", "test_accuracy", [1 - o["errors"][0] for o in GOOD], "reestimated"),
            rows("large", "test_accuracy", [1 - o["errors"][0] + anew for o in WORSE], "reestimated"),
        ))  # fmt: skip

    most = judged(0.03)
    assert (most.verdict, most.effect) == ("supported", pytest.approx(3.0))
    assert "75 % of the gap" in most.evidence
    assert judged(0.0).verdict == "contradicted"
    none = batch_norm_statistics(evidence(GOOD, WORSE, rows("small", "test_accuracy", [0.9] * 4, "none")))
    assert (none.verdict, none.evidence) == ("contradicted", "the model has no batch norm")


def test_without_a_gap_causes_are_described_and_no_share_is_claimed():
    won = [rows(side, "test_accuracy", [1 - o["errors"][0] + more for o in GOOD], "reestimated")
           for side, more in (("small", 0.0), ("large", 0.03))]  # fmt: skip
    found = batch_norm_statistics(evidence(GOOD, GOOD, *won))
    assert found.verdict == "supported"
    assert "of the gap" not in found.evidence


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_decide_nothing_and_say_how_many_are_needed(seeds):
    every = [part for side in ("small", "large") for part in (
        rows(side, "lambda_max", [10.0] * seeds), rows(side, "lambda_min", [-5.0] * seeds),
        rows(side, "metric_2_1", [3.0] * seeds), rows(side, "test_accuracy", [0.9] * seeds, "reestimated"),
    )]  # fmt: skip
    verdicts = judge(evidence(GOOD[:seeds], WORSE[:seeds], *every))
    assert [v.name for v in verdicts] == list(HYPOTHESES)
    for v in verdicts:
        assert v.verdict == "undecided"
        assert math.isnan(v.low)
        assert "run at least 3 seeds" in v.advice


def test_what_was_not_measured_is_undecided():
    for v in judge(evidence(GOOD, WORSE)):
        if v.name in ("saddle", "sharp_minimum", "batch_norm_statistics"):
            assert (v.verdict, v.advice) == ("undecided", "measure it: nothing here tells")
            assert "nan" not in v.evidence


def test_groups_that_share_no_seeds_are_compared_by_welch():
    found = evidence(GOOD, WORSE)
    shifted = replace(found, large=tuple(replace(r, seed=r.seed + 10) for r in found.large))
    assert shifted.gap.value == pytest.approx(found.gap.value)
    assert shifted.gap.high - shifted.gap.low > found.gap.high - found.gap.low


def test_verdicts_and_evidence_come_back_from_json():
    found = evidence(GOOD, WORSE, rows("small", "lambda_max", [1.0] * 4))
    assert Evidence.from_json(found.to_json()) == found
    assert judge(Evidence.from_json(found.to_json()))[2] == judge(found)[2]


def test_figures_are_interpolated_between_rows_and_never_beyond():
    table = [{"update": 0.0, "distance": 1.0}, {"update": 10.0, "distance": 3.0}, {"update": 20.0, "distance": 4.0}]
    assert along(table, "update", "distance", 5.0) == 2.0
    assert along(table, "update", "distance", 20.0) == 4.0
    assert along(table, "update", "distance", 21.0) is None
    assert along(table[:1], "update", "distance", 0.0) == 1.0
    assert along([], "update", "distance", 0.0) is None


def test_judging_needs_no_torch():
    folder = Path(_hypotheses.__file__).parent
    for name in ("_hypotheses", "_judge_training", "_judge_minimum", "_evidence", "_words"):
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.Import):
                assert all(alias.name.split(".")[0] != "torch" for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("largebatch"):
                allowed = ("recipe", "results", "diagnose._evidence", "diagnose._words", "diagnose._judge_")
                assert node.module.removeprefix("largebatch.").startswith(allowed), node.module
