"""The built-in studies: their designs fit the task, and their sentences say what their tables hold, no more."""

import re
from dataclasses import replace

import pytest

from largebatch.comparison import CellRow, LookRow, MeasureRow, RunRow, judge, measure_name
from largebatch.comparison._names import NAMES
from largebatch.core import data_size
from largebatch.diagnose import SHARPNESS
from largebatch.results import Estimate
from largebatch.study import STUDIES, Published, StudyResult, Subject
from largebatch.study._plan import gradient_cost, total_updates
from largebatch.study._studies import find_study
from largebatch.train import Execution, prepare

DIGITS = Subject("digits/mlp")


def design(name, **options):
    return STUDIES[name](DIGITS, **({"large": 512} | options))


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_cell_fits_its_task_and_few_questions_are_primary(name, quick):
    study = design(name, quick=quick)
    for cell in study.cells:
        prepare(study.subject_of(cell).load(), cell.recipe, Execution())
    assert 1 <= sum(contrast.primary for contrast in study.contrasts) <= 5
    assert sum(cell.reference for cell in study.cells) >= 1
    assert study.references
    assert len(design(name, quick=True).cells) <= len(design(name).cells)


def test_open_question_crosses_what_it_says():
    study = design("open-question", whole_updates=300)
    cells = {cell.name: cell.recipe for cell in study.cells}
    assert 25 <= len(cells) <= 35
    assert {recipe.optimizer for recipe in cells.values()} == {"sgd", "adam"}
    assert {recipe.global_batch_size for recipe in cells.values()} == {16, 512, 1437}
    assert {recipe.warmup.kind for recipe in cells.values()} == {"none", "constant", "gradual"}
    assert {recipe.ghost_batch_size for recipe in cells.values()} == {16, None}
    assert cells["sgd large scaled gradual"].lr == pytest.approx(32 * 0.05)
    assert cells["adam large scaled gradual ghosts"].lr == pytest.approx(1e-3 * 32**0.5)
    assert cells["sgd large kept"].lr == cells["sgd small"].lr
    equal = [total_updates(cells[name], 1437) for name in ("sgd small", "sgd large kept, updates")]
    assert equal[1] == pytest.approx(equal[0], rel=0.1)
    whole = [recipe for recipe in cells.values() if recipe.global_batch_size == 1437]
    assert max(total_updates(recipe, 1437) for recipe in whole) <= 300


def test_warm_starts_are_at_equal_epochs_and_have_both_controls():
    study = design("warm-start")
    size = data_size(DIGITS.load().train)
    costs = {cell.name: gradient_cost(cell.recipe, size) for cell in study.cells}
    warm = [cell for cell in study.cells if cell.name.startswith("warm start")]
    for cell in warm:
        assert costs[cell.name] == pytest.approx(costs["small only"], rel=0.05)
        assert cell.recipe.then.carry == "weights"
        assert cell.recipe.then.recipe.global_batch_size == 512
    updates = {cell.name: total_updates(cell.recipe, size) for cell in study.cells}
    assert updates["small only, equal updates"] == updates["large only, equal updates"] == updates[warm[-1].name]


def test_remedies_are_alone_and_added_and_cost_what_they_cost():
    study = design("remedies")
    cells = {cell.name: cell.recipe for cell in study.cells}
    size = data_size(DIGITS.load().train)
    cost = {name: gradient_cost(recipe, size) for name, recipe in cells.items()}
    for name in ("SAM", "LARS", "LAMB", "conservative steps", "batch growth", "label smoothing", "longer training"):
        assert f"{name} alone" in cells
        assert f"recipe + {name}" in cells
    assert cost["SAM alone"] == pytest.approx(2 * cost["large kept"])
    assert cost["conservative steps alone"] == pytest.approx(3 * cost["large kept"])
    assert cost["longer training alone"] == pytest.approx(32 * cost["large kept"], rel=0.05)
    assert cells["warmup alone"].lr == cells["large kept"].lr
    assert not any("augmentation" in name for name in cells)  # digits are no images


def test_a_sweep_doubles_up_to_the_whole_data_set():
    study = STUDIES["batch-sweep"](DIGITS)
    assert [cell.recipe.global_batch_size for cell in study.cells] == [16, 32, 64, 128, 256, 512, 1024, 1437]


def test_published_figures_stand_beside_ours_with_their_source(monkeypatch):
    """Goyal's table 1 and Keskar's tables 2 to 4, as the papers print them."""
    goyal = design("goyal")
    assert {cell.name: str(cell.published[0]) for cell in goyal.cells} == {
        "small": "76.40 ± 0.12", "large, no warmup": "75.16 ± 0.37", "large, constant warmup": "74.12 ± 0.56",
        "large, gradual warmup": "76.26 ± 0.09",
    }  # fmt: skip
    assert [c.published for c in goyal.contrasts if c.primary] == ["-0.14", "1.10", "-1.04"]
    digits = DIGITS.load()
    monkeypatch.setattr(Subject, "load", lambda self: digits)  # the name alone tells whose figures they are
    keskar = STUDIES["keskar"](Subject("mnist/f1"), large=512)
    assert [[str(figure) for figure in cell.published] for cell in keskar.cells] == [
        ["98.03 ± 0.07", "1.23 ± 0.83", "0.11 ± 0.00"], ["97.81 ± 0.07", "205.14 ± 69.52", "9.22 ± 0.56"],
    ]  # fmt: skip
    assert {c.metric: c.published for c in keskar.contrasts if c.published} == {
        "test_accuracy": "0.22", "distance": "3 to 10", "metric_2_1 (batch)": "167", "metric_2_1 (running)": "167",
        "metric_2_1_subspace (batch)": "83.8", "metric_2_1_subspace (running)": "83.8",
    }  # fmt: skip
    assert "MNIST" in keskar.published
    other = design("keskar")
    assert not any(cell.published for cell in other.cells)
    assert "none of Keskar et al.'s" in other.notes[0]


def test_a_published_figure_without_statistics_stands_beside_all_of_them_in_every_table():
    study = design("goyal")
    cells = [
        CellRow(cell.name, "", "t", cell.group, cell.reference, 16, "sgd", 0.1, "none", None, 10, 1, 1.0, {},
                estimates={"test_accuracy": Estimate(97, 0.1, 96, 98, 3), "metric_2_1 (batch)": Estimate(9, 1, 8, 10, 3)},
                published=(*cell.published, Published("metric_2_1", 205.14, 69.52)))
        for cell in study.cells
    ]  # fmt: skip
    measured = (MeasureRow("small", 0, "d", "metric_2_1", 9.0, 0.0, "batch", 64, 0.1),)
    found = StudyResult("goyal", "?", "t", (0, 1, 2), True, (), tuple(cells), (), (), measured, published="a table")
    assert "76.40 ± 0.12" in found.text()
    assert "published: a table" in found.text()
    assert "205.14 ± 69.52" in found.sharpness_table().text()
    assert "Metric 2.1, batch statistics" in found.sharpness_table().text()
    turned = found.sharpness_table(by_cell=True)
    assert [row[0] for row in turned.rows] == [cell.name for cell in cells]
    assert "Metric 2.1, batch statistics" in turned.columns
    plain = replace(found, cells=tuple(replace(cell, published=()) for cell in found.cells))
    assert "published" not in plain.table().text() + plain.sharpness_table().text()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("metric_2_1_ascent (running)", "Metric 2.1 (sign ascent), running statistics"),
        ("metric_2_1(epsilon=0.0005) [batch]", "Metric 2.1, ε = 0.0005, batch statistics"),
        ("adaptive_linf (none)", "adaptive ℓ∞ sharpness"),
        ("early lambda_max", "λ_max after one epoch"),
        ("largest sharpness_times_lr", "largest η·λ_max"),
        ("train_loss at half", "train loss at half of the run"),
        ("linear_rule at the start (running)", "error of the linear rule at the start, running statistics"),
        ("my (own) number (a) (b)", "my (own) number (a) (b)"),
    ],
)
def test_measures_are_called_as_in_the_field(key, name):
    assert measure_name(key) == name


def test_every_measure_of_sharpness_has_a_name():
    assert set(SHARPNESS) <= set(NAMES)


def test_a_task_without_accuracy_is_asked_about_its_loss(monkeypatch):
    """Nor has a task without classes a softmax regression for a control."""
    digits = DIGITS.load()
    inputs, targets = digits.train
    regression = replace(digits, metrics={}, train=(inputs, targets.double()))
    monkeypatch.setattr(Subject, "load", lambda self: regression)
    for name in sorted(STUDIES):
        study = design(name)
        assert not [c for c in study.contrasts if c.metric == "test_accuracy"]
        assert all(c.margin < 0.1 for c in study.contrasts if c.margin)
        assert not [cell for cell in study.cells if cell.name.startswith("softmax")]


def test_a_network_without_batch_norm_is_asked_about_what_is_measured_of_it():
    subject = Subject("digits/mlp", network="softmax")
    for name in sorted(STUDIES):
        study = STUDIES[name](subject, large=512)
        modes = {c.metric.partition(" (")[2] for c in study.contrasts} | {
            c.against.partition(" (")[2] for c in study.contrasts
        }
        assert modes <= {"", "none)"}, name


def test_an_unknown_study_is_refused():
    with pytest.raises(ValueError, match="expected one of open-question, warm-start"):
        find_study("open")


JITTER = (0.0, 0.1, -0.1, 0.05, -0.05)


def tables(accuracy, *, ratio=1.0, cosine=0.0, seeds=5, spread=1.0):
    """The quick open question; cells not in `accuracy` are at 97 %; `ratio` is large ÷ small, of each measure or of all."""
    study = replace(design("open-question", quick=True), measures=replace(design("open-question").measures, planes=()))
    study = study.with_seeds(seeds)
    runs, measures, looks, cells = [], [], [], []
    for index, cell in enumerate(study.cells):
        cells.append(
            CellRow(cell.name, "", "t", cell.group, cell.reference, 16, "sgd", 0.1, "none", None, 10, 1, 1.0, {})
        )
        large = "large" in cell.name
        for seed, shift in enumerate(JITTER[:seeds]):
            value = accuracy.get(cell.name, 97.0) + spread * shift * (1 + 0.1 * index)
            curve = {
                f"train_loss at {when}": 0.1 + 0.01 * shift * index for when in ("a quarter", "half", "three quarters")
            }
            runs.append(RunRow(cell.name, seed, f"{index}-{seed}", "finished", metrics={
                "test_accuracy": value / 100, "test_loss": 0.1, "train_loss": 0.01} | curve))  # fmt: skip
            for kind in study.measures.sharpness if cell.measures else ():
                times = ratio.get(kind, 1.0) if isinstance(ratio, dict) else ratio
                sharp = (times if large else 1.0) * (1 + 0.02 * shift * index)
                measures += [
                    MeasureRow(cell.name, seed, "d", kind, sharp, 0.0, m, 64, 0.1) for m in ("running", "batch")
                ]
            batch = 0.5 + (cosine if large else 0.0) + 0.01 * shift * index
            looks.append(LookRow(cell.name, seed, 1, 1.0, 10, 0.1, {"batch_cosine": batch, "lambda_max": 1.0 + index}))
    whole = StudyResult("open-question", "?", "t", study.seeds, True, (), tuple(cells), (), tuple(runs), tuple(measures),
                        tuple(looks))  # fmt: skip
    return judge(study, whole).answer


def said(answer, beginning):
    (sentence,) = [sentence for sentence in answer if sentence.startswith(beginning)]
    return sentence


RECOVERED = "The minimum that the recipe finds"
LOST = {"sgd large kept": 95.0, "sgd large scaled": 95.5, "sgd large scaled gradual": 96.0, "adam large kept": 94.0}


def test_no_gap_is_called_no_gap_and_nothing_is_closed():
    answer = tables({})
    assert "is not told apart from the small batch (" in said(answer, "With SGD and nothing changed")
    assert "no gap here to close" in said(answer, "Goyal's recipe")
    assert "is not told apart from the small batch (" in said(answer, "In the convex control")
    assert "are not told apart at a quarter, at half and at three quarters of the run;" in said(
        answer, "The training curves"
    )
    assert "not told apart" in said(answer, "After one epoch")
    assert "not told apart from the small batch's by any of 10 measures" in said(answer, RECOVERED)


def test_a_gap_that_the_recipe_closes_is_told_in_shares():
    answer = tables(LOST, ratio=8.0, cosine=0.3)
    assert "is worse, by 2.0" in said(answer, "With SGD and nothing changed")
    assert re.search(r"closes 50 % \[.*\] of the gap, not all of it\.", said(answer, "Goyal's recipe"))
    assert "sharper than the small batch's by all 10 measures, from 8." in said(answer, "The large batch's minimum")
    assert "perhaps all of it" in said(answer, "In that protocol Goyal's recipe (rate × √k")
    assert "more accurate than the small batch's, by 0.3" in said(answer, "After one epoch")
    assert "as good as it, within 0.5 points" in said(answer, "The recipe at as many updates")


def test_of_many_measures_a_sentence_tells_how_many_agree_and_the_extremes():
    ratio = {"metric_2_1_ascent": 8.0, "lambda_max": 3.0, "trace": 20.0, "asam": 0.5}
    told = said(tables(LOST, ratio=ratio), RECOVERED)
    assert told.startswith(f"{RECOVERED} is sharper than the small batch's by 6 of 10 measures, from 3.0")
    assert re.search(
        r"from 3\.0\d* \[.*\] times \(λ_max, .* statistics\) to 20\.\d* \[.*\] times \(trace of the Hessian, ", told
    )
    assert re.search(r"; flatter by 2 of 10 measures, from 0\.\d+ \[.*\] times \(ASAM sharpness, ", told)
    assert told.endswith("; not told apart by 2.")
    assert "Metric 2.1" not in told


def test_of_three_cells_no_sign_is_believed():
    told = said(tables(LOST, cosine=0.3), "Whether signs in training")
    assert told.endswith(
        "is not asked over the 3 cells of SGD with the large batch at equal epochs: too few cells to tell: it takes 5."
    )


def test_a_large_batch_that_is_better_is_called_better_and_a_recipe_that_hurts_widens_the_gap():
    assert "is better, by 1.0" in said(tables({"sgd large kept": 98.0}), "With SGD and nothing changed")
    widened = said(tables({"sgd large kept": 95.0, "sgd large scaled gradual": 94.0}), "Goyal's recipe")
    assert "widens the gap, by 50 % [" in widened


def test_two_seeds_claim_nothing():
    answer = tables(LOST, ratio=8.0, seeds=2)
    assert answer == ("Nothing is judged: no comparison has 3 seeds with a value in all its cells.",)


def test_what_the_correction_takes_back_is_not_claimed_outright():
    lost = {"sgd large kept": 95.0, "sgd large scaled gradual": 95.02, "sgd large scaled gradual, updates": 94.0}
    told = said(tables(lost, spread=170.0), "With SGD and nothing changed")
    assert re.search(r"is worse, by 2\.\d .*\(by itself; not after Holm's correction, p = 0\.\d+\)\.$", told)


def test_answers_use_no_names_of_the_code():
    for answer in (tables({}), tables(LOST, ratio=8.0, cosine=0.3)):
        assert not re.search(r"[a-z]_(?!max|batch|full|t)[a-z0-9]+|metric_|\(running\)|linf", " ".join(answer))
        assert max(map(len, answer)) < 400
        assert all(sentence.endswith(".") and sentence[0].isupper() for sentence in answer)
