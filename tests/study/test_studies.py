"""The built-in studies: their designs fit the task, and their sentences say what their tables hold, no more."""

from dataclasses import replace

import pytest

from largebatch.core import data_size
from largebatch.study import STUDIES, LookRow, MeasureRow, RunRow, StudyResult, Subject
from largebatch.study._compare import judge
from largebatch.study._findings import CellRow
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


def test_published_figures_stand_beside_ours():
    assert any("24.84" in note for note in design("goyal").notes)
    assert not any("published" in note for note in design("keskar").notes)  # not one of Keskar's networks


def test_an_unknown_study_is_refused():
    with pytest.raises(ValueError, match="expected one of open-question, warm-start"):
        find_study("open")


def tables(accuracy, *, ratio=1.0, cosine=0.0):
    """Five seeds of the quick open question; cells not in `accuracy` are at 97 %."""
    study = replace(design("open-question", quick=True), measures=replace(design("open-question").measures, planes=()))
    jitter = (0.0, 0.1, -0.1, 0.05, -0.05)
    runs, measures, looks, cells = [], [], [], []
    for index, cell in enumerate(study.cells):
        cells.append(
            CellRow(cell.name, "", "t", cell.group, cell.reference, 16, "sgd", 0.1, "none", None, 10, 1, 1.0, {})
        )
        for seed, shift in enumerate(jitter):
            value = accuracy.get(cell.name, 97.0) + shift * (1 + 0.1 * index)
            curve = {
                f"train_loss at {when}": 0.1 + 0.01 * shift * index for when in ("a quarter", "half", "three quarters")
            }
            runs.append(RunRow(cell.name, seed, f"{index}-{seed}", "finished", metrics={
                "test_accuracy": value / 100, "test_loss": 0.1, "train_loss": 0.01} | curve))  # fmt: skip
            if cell.measures:
                sharp = (ratio if "large" in cell.name else 1.0) * (1 + 0.02 * seed * index)
                measures += [MeasureRow(cell.name, seed, "d", kind, sharp, 0.0, mode, 64, 0.1)
                             for kind in study.measures.sharpness for mode in ("running", "batch")]  # fmt: skip
            batch = 0.5 + (cosine if "large" in cell.name else 0.0) + 0.01 * shift * index
            looks.append(LookRow(cell.name, seed, 1, 1.0, 10, 0.1, {"batch_cosine": batch}))
    whole = StudyResult("open-question", "?", "t", study.seeds, True, (), tuple(cells), (), tuple(runs), tuple(measures),
                        tuple(looks))  # fmt: skip
    return judge(study, whole).answer


def said(answer, beginning):
    (sentence,) = [sentence for sentence in answer if sentence.startswith(beginning)]
    return sentence


def test_no_gap_is_called_no_gap_and_nothing_is_closed():
    answer = tables({})
    assert "no gap here" in said(answer, "SGD, nothing changed")
    assert "no gap here to close" in said(answer, "Goyal's recipe")
    assert "no gap here" in said(answer, "Convex control")
    assert "not told apart, as Goyal says" in said(answer, "The training curves")


def test_a_gap_that_the_recipe_closes_is_told_in_shares():
    lost = {"sgd large kept": 95.0, "sgd large scaled": 95.5, "sgd large scaled gradual": 96.0, "adam large kept": 94.0}
    answer = tables(lost, ratio=8.0, cosine=0.3)
    assert "is worse, by 2.0" in said(answer, "SGD, nothing changed")
    assert "closes 50 %" in said(answer, "Goyal's recipe")
    assert "closes 100 %" in said(answer, "With Goyal's recipe (rate × √k")
    assert "sharper by metric_2_1_ascent (running) 8." in said(answer, "The minimum that the recipe finds")
    assert "are more accurate than the small batch's" in said(answer, "After one epoch")
    assert "as good as it, within 0.5 points" in said(answer, "The recipe at as many updates")


def test_a_large_batch_that_is_better_is_called_better():
    assert "is better, by 1.0" in said(tables({"sgd large kept": 98.0}), "SGD, nothing changed")
