"""The page as a text: nothing of a user's becomes markup, nothing is fetched, and its numbers are those of the logs."""

import csv
import dataclasses
import io
import json
import math
import re
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hostile_names import HOSTILE
from scipy import stats

from largebatch import report
from largebatch.cli import main
from largebatch.diagnose import HYPOTHESES, read_run
from largebatch.recipe import Recipe
from largebatch.report._cite import references, study_sources
from largebatch.report._curves import MOST_POINTS, curve, over_seeds, training_figures
from largebatch.report._figure import Columns, spans_decades
from largebatch.report._sheet import Scale, Sheet, shown
from largebatch.report._tables import cell_sheet, contrast_sheet, sharpness_sheet
from largebatch.report._varied import switch_figures
from largebatch.results import Estimate, RunFolder, write_json
from largebatch.study import Published, read_study


class Document(HTMLParser):
    """Tags with attributes, texts, and the contents of script elements."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.scripts, self._open = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs) if tag == "script" else None

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open is None:
            self.texts.append(data)
        else:
            self.scripts.append((self._open, data))


@pytest.fixture(scope="module")
def page(hostile_folder, tmp_path_factory):
    return report.write(hostile_folder, tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture(scope="module")
def document(page):
    return Document(page.read_text())


@pytest.fixture(scope="module")
def data(document):
    return json.loads(next(content for attributes, content in document.scripts if attributes.get("id") == "data"))


def test_names_stay_text(document):
    tags = [tag for tag, _ in document.tags]
    assert "img" not in tags
    assert "b" not in tags
    assert tags.count("script") == len(document.scripts) == 3
    assert not [name for _, attributes in document.tags for name in attributes if name.startswith("on")]
    texts = "".join(document.texts)
    for name in HOSTILE:
        assert name in texts


def test_data_in_a_script_hold_no_markup_and_read_back(document, data):
    content = next(content for attributes, content in document.scripts if attributes.get("id") == "data")
    assert not set(content) & set("<>&")
    assert [cell["name"] for cell in data["cells"]] == list(HOSTILE)


def test_nothing_is_fetched_and_only_our_two_scripts_may_run(document):
    for tag, attributes in document.tags:
        assert "src" not in attributes, tag
        link = attributes.get("href", "#")
        assert link.startswith(("#", "data:,")) or (tag == "a" and link.startswith("https://arxiv.org/abs/")), link
    policy = next(attributes["content"] for _, attributes in document.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.count("'sha256-") == 2
    assert "unsafe-inline" not in policy.split(";")[1]


def test_curves_are_the_logs_and_their_intervals_those_of_student(hostile_folder, data):
    study = read_study(hostile_folder)
    train = next(figure for figure in data["figures"] if figure["key"] == "held-out")
    view = next(v for v in train["views"] if v["name"] == "held-out accuracy" and v["by"] == "updates")
    mean = next(one for one in view["series"] if one["cell"] == HOSTILE[0] and "seed" not in one)
    logs = [RunFolder(hostile_folder / run.folder).log() for run in study.runs if run.cell == HOSTILE[0]]
    rows = [[row for row in log if row["kind"] == "epoch"] for log in logs]
    columns = data["columns"]
    assert columns[mean["x"]] == [row["updates"] for row in rows[0]]
    for i in range(len(rows[0])):
        values = [100 * seed[i]["held_out_accuracy"] for seed in rows]
        low, high = stats.t.interval(0.95, 2, stats.tmean(values), stats.sem(values))
        assert columns[mean["y"]][i] == pytest.approx(sum(values) / 3, rel=1e-6)
        assert [columns[mean["low"]][i], columns[mean["high"]][i]] == pytest.approx([low, high], rel=1e-6)


def test_a_diverged_run_is_shown_by_itself_and_has_no_part_in_the_mean(hostile_folder, data):
    view = next(figure for figure in data["figures"] if figure["key"] == "train")["views"][0]
    mine = [one for one in view["series"] if one["cell"] == HOSTILE[1]]
    lost = [one for one in mine if one["name"].endswith("seed 0 (diverged)")]
    assert len(lost) == 1
    assert "one_run" not in lost[0]
    mean = next(one for one in mine if "seed" not in one)
    assert len(data["columns"][lost[0]["x"]]) < len(data["columns"][mean["x"]])


def test_on_a_logarithmic_axis_the_mean_is_geometric():
    rows = [[{"kind": "epoch", "epoch": e, "updates": e + 1, "train_loss": y} for e, y in enumerate(ys)]
            for ys in ([1.0, 0.01], [4.0, 0.04], [2.0, 0.02])]  # fmt: skip
    (figure,) = training_figures([curve("a", seed, "finished", log) for seed, log in enumerate(rows)])
    view = figure.views[0]
    assert view.y.log
    assert view.series[0].y == pytest.approx([2.0, 0.02])
    logs = [math.log(0.01), math.log(0.04), math.log(0.02)]
    assert view.series[0].low[1] == pytest.approx(
        math.exp(stats.t.interval(0.95, 2, sum(logs) / 3, stats.sem(logs))[0])
    )


def test_two_seeds_have_a_mean_and_no_band():
    x, mean, low, high = over_seeds([[(1.0, 2.0)], [(1.0, 4.0)]])
    assert (x, mean) == ([1.0], [3.0])
    assert all(map(math.isnan, (*low, *high)))


def test_a_long_log_is_thinned_from_its_first_row_to_its_last():
    rows = [{"kind": "update", "epoch": i / 7, "update": i, "distance": float(i)} for i in range(5000)]
    thin = curve("a", 0, "finished", rows).updates
    assert MOST_POINTS / 2 < len(thin) <= MOST_POINTS
    assert (thin[0]["distance"], thin[-1]["distance"]) == (0.0, 4999.0)
    for before, after in pairwise(row["update"] for row in thin):
        assert before < after <= before + 5000 / (MOST_POINTS / 2 - 1) + 1
        assert after <= max(before + 1, 1.2 * before + 1)


def test_phases_follow_one_another():
    rows = [{"kind": "epoch", "phase": phase, "epoch": e, "updates": 10 * (e + 1), "train_loss": 1.0}
            for phase in (0, 1, 2) for e in range(2)]  # fmt: skip
    placed = curve("a", 0, "finished", rows).epochs
    assert [row["at epochs"] for row in placed] == [1, 2, 3, 4, 5, 6]
    assert [row["at updates"] for row in placed] == [10, 20, 30, 40, 50, 60]


def test_what_is_not_finite_is_a_hole_and_equal_lists_are_kept_once():
    columns = Columns()
    assert columns.place([1.0, math.nan, math.inf]) == columns.place([1.0, math.inf, math.nan]) == 0
    assert columns.place([1.0]) == 1
    assert columns.lists == [[1.0, None, None], [1.0]]


@pytest.mark.parametrize(
    ("values", "log"), [([1.0, 2.0], False), ([0.01, 2.0], True), ([0.0, 2.0], False), ([-1.0, 100.0], False), ([], False)]
)  # fmt: skip
def test_axes_are_logarithmic_where_spans_ask_for_it(values, log):
    assert spans_decades(values) is log


def test_intervals_are_drawn_to_one_scale():
    rows = [
        Estimate(2.0, 0.5, 1.0, 3.0, 5),
        Estimate(-1.0, 0.5, -2.0, 0.0, 5),
        Estimate(0.0, 90.0, -300.0, math.inf, 5),
    ]
    scale = Scale.of(rows)
    drawn = [scale.sketch(row) for row in rows]
    assert len({sketch.rule for sketch in drawn}) == 1
    unit = (drawn[0].at - drawn[1].at) / 3
    assert drawn[0].high - drawn[0].at == pytest.approx(unit, abs=0.02)
    assert drawn[0].at - drawn[0].rule == pytest.approx(2 * unit, abs=0.02)
    assert (drawn[2].low, drawn[2].high, drawn[2].cut_low, drawn[2].cut_high) == (0.0, 100.0, True, True)
    assert not drawn[0].cut_low
    assert scale.sketch(Estimate(1.0, math.nan, math.nan, math.nan, 1)) is None


def test_a_ratio_is_drawn_by_its_logarithm():
    double, half = Estimate(2.0, 0.1, 1.5, 3.0, 5), Estimate(0.5, 0.1, 1 / 3, 1 / 1.5, 5)
    scale = Scale.of([double, half], ratio=True)
    assert scale.sketch(double).at - 50 == pytest.approx(50 - scale.sketch(half).at)
    assert scale.sketch(double).rule == 50.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.nan, "–"), (True, "yes"), (0.123456, "0.1235"), (12345, "12\u202f345"), ("a", "a"),
     (Estimate(1.0, 0.1, 0.8, 1.2, 5, "points"), "1.00 [0.80, 1.20]"),
     (Estimate(9.18e-5, 1e-5, 8.25e-5, 1.011e-4, 5), "9.18 [8.25, 10.11] × 10⁻⁵"),
     (Estimate(16.0, 5.0, -47.5, 79.5, 2), "16 (n = 2, no interval)"),
     (Estimate(0.0, 0.1, -0.2, 0.2, 3), "0.00 [-0.20, 0.20]"),
     (Estimate(3e-15, 0.4, -1.1, 1.1, 5), "0.0 [-1.1, 1.1]"),
     (Estimate(-1e-9, 1e-5, -2e-5, 2e-5, 5), "0.0 [-2.0, 2.0] × 10⁻⁵"),
     (Estimate(2e-5, 5.0, -47.5, 47.5, 2), "2 × 10⁻⁵ (n = 2, no interval)"),
     (Estimate(math.inf, math.nan, math.nan, math.nan, 5), "inf (n = 5, no interval)"),
     (Estimate(math.nan, math.nan, math.nan, math.nan, 0), "–")],
)  # fmt: skip
def test_values_are_shown_without_their_unit(value, text):
    assert shown(value) == text


def test_columns_that_hold_nothing_are_left_out():
    sheet = Sheet("key", "caption", ["a", "b", "c"], [["x", None, None], ["y", None, 1]]).trimmed()
    assert [column.name for column in sheet.heads] == ["a", "c"]
    assert sheet.csv == "a,c\nx,\ny,1\n"


def test_warm_starts_are_drawn_against_their_switch_with_the_controls_at_both_ends(hostile_folder):
    study = read_study(hostile_folder)
    recipes = [
        {"duration": "20ep"},
        {"duration": "1ep", "then": {"carry": "all"}},
        {"duration": "5ep", "then": {"carry": "all"}},
        {"duration": "20ep"},
    ]
    batches = (64, 64, 64, 1024)
    cells = tuple(dataclasses.replace(cell, recipe=recipe, global_batch_size=batch)
                  for cell, recipe, batch in zip(study.cells, recipes, batches, strict=True))  # fmt: skip
    accuracy, sharpness = switch_figures(dataclasses.replace(study, cells=cells))
    assert [series.x for series in accuracy.views[0].series] == [[20.0], [1.0], [5.0], [0.0]]
    assert [series.y[0] for series in accuracy.views[0].series] == [c.estimates["test_accuracy"].value for c in cells]
    assert [view.name for view in sharpness.views] == [
        "λ_max, running statistics",
        "ASAM sharpness, running statistics",
    ]
    assert switch_figures(study) == []


def test_lines_are_told_apart_by_all_eyes():
    """Deutan and protan sight by the matrices of Machado et al. 2009, for linear RGB; distances in CIELAB."""
    script = (Path(report.__file__).parent / "template" / "page.js").read_text()
    codes = re.findall(r"#[0-9a-f]{6}", re.search(r"COLOURS = \[(.*?)\]", script)[1])
    srgb = np.array([[int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)] for code in codes])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    deutan = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    protan = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    for eye in (np.eye(3), np.array(deutan), np.array(protan)):
        cube = np.cbrt((linear @ eye.T).clip(0, 1) @ to_xyz.T / [0.9505, 1.0, 1.089])
        lab = np.stack([116 * cube[:, 1], 500 * (cube[:, 0] - cube[:, 1]), 200 * (cube[:, 1] - cube[:, 2])], axis=1)
        assert min(np.linalg.norm(one - other) for one, other in combinations(lab, 2)) > 20
    light = linear @ to_xyz[1]
    assert (1.05 / (light + 0.05)).min() >= 3
    assert ((light + 0.05) / (0.0086 + 0.05)).min() >= 3  # on the dark page, #14171c


def test_tables_read_as_the_field_speaks_and_their_csv_as_the_code(document, data):
    assert "λ_max, running statistics" in document.texts
    rows = list(csv.reader(io.StringIO(data["sheets"]["sharpness"])))
    assert [row[0] for row in rows] == ["measure", "lambda_max (running)", "asam (running)"]


def test_published_figures_stand_in_columns_of_their_own_and_their_source_in_the_caption(hostile_folder):
    study = read_study(hostile_folder)
    cell = dataclasses.replace(
        study.cells[0], published=(Published("test_accuracy", 76.4, 0.12), Published("lambda_max", 3.0, 0.5))
    )
    gap = dataclasses.replace(study.contrasts[0], published="0.22")
    told = dataclasses.replace(
        study, cells=(cell, *study.cells[1:]), contrasts=(gap, *study.contrasts[1:]), published="a paper, table 1"
    )
    for sheet, value in (
        (cell_sheet(told.cells, "network", told.published), "76.40 ± 0.12"),
        (contrast_sheet(told.contrasts, primary=True, source=told.published), "0.22"),
        (sharpness_sheet(told), "3.00 ± 0.50"),
    ):
        (place,) = [i for i, head in enumerate(sheet.heads) if head.name.endswith("published")]
        assert sheet.entries[0][place].value == value
        assert sheet.caption.endswith("Published: a paper, table 1.")
    assert not [head for head in cell_sheet(study.cells, "network").heads if head.name == "published"]


def test_references_are_those_of_what_is_shown(hostile_folder):
    study = read_study(hostile_folder)
    texts = [reference.text for reference in references(study_sources(study))]
    assert len(texts) == len(set(texts))
    assert sum("1609.04836" in text for text in texts) == 1
    assert [text for text in texts if text.startswith("Li et al. 2018, Visualizing")]
    bare = dataclasses.replace(study, planes=(), paths=(), spectra=(), looks=(), measurements=(), references=())
    assert [reference.text.split(",")[0] for reference in references(study_sources(bare))] == [
        "Holm 1979",
        "Student 1908",
    ]


def test_an_unfinished_study_says_so(hostile_folder, tmp_path):
    study = read_study(hostile_folder)
    missing = dataclasses.replace(study.runs[0], status="missing", folder="", metrics={})
    write_json(
        tmp_path / "result.json",
        dataclasses.replace(study, complete=False, runs=(missing, *study.runs[1:]), answer=()).to_json(),
    )
    text = report.write(tmp_path).read_text()
    assert "Provisional: 1 of 12 runs are still to be trained" in text
    assert "None yet" in text


def test_no_report_of_what_is_no_study(tmp_path, capsys):
    with pytest.raises(ValueError, match="expected the folder of a study, a diagnosis or a run"):
        report.write(tmp_path)
    assert main(["report", str(tmp_path)]) == 2
    assert "expected the folder of a study" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def run_folder(folder, seed, batch, *, ended=True):
    """A run as `train` leaves it."""
    held = RunFolder(folder)
    recipe = Recipe(32, lr=0.1, duration="6ep").at(batch)
    held.write(
        "recipe.json",
        {"task": HOSTILE[1], "digest": f"{batch:06x}{seed:06x}", "seed": seed, "recipe": recipe.to_json()},
    )
    held.write("environment.json", {"torch": "2", "gpu": None})
    rows = [
        {"kind": "epoch", "phase": 0, "epoch": e, "updates": 10 * (e + 1), "samples": 2048 * (e + 1), "seconds": 1.0,
         "train_loss": 1 / (e + 1), "train_accuracy": 0.9, "held_out_loss": 0.5, "held_out_accuracy": 0.8 + 0.01 * seed}
        for e in range(6)
    ]  # fmt: skip
    update = {"kind": "update", "phase": 0, "update": 0, "epoch": 0.1, "samples": 32, "lr": 0.1, "distance": 1.0,
              "gradient_norm": 1.0, "step_norm": 0.1, "path_length": 1.0, "batch_size": 32, "train_loss": 1.0}  # fmt: skip
    held.append([update, *rows])
    metrics = {
        "test_accuracy": 0.9 - batch / 4096 + 0.01 * seed,
        "test_loss": 0.3,
        "train_loss": 0.2,
        "train_accuracy": 0.95,
    }
    if ended:
        held.write(
            "result.json", {"status": "finished", "reason": "", "updates": 60, "samples": 1920, "metrics": metrics}
        )
    return folder


def test_a_run_has_a_page_of_how_it_ended_and_what_was_changed(tmp_path):
    text = report.write(run_folder(tmp_path / "run", 0, 256)).read_text()
    assert "It finished after 60 updates: test accuracy 83.75 %, test loss 0.3" in text
    assert "gradual, from the small-batch rate" in text
    assert Document(text).tags.count(("figure", {"id": "figure-train", "data-figure": "train"})) == 1
    assert "Provisional" in report.write(run_folder(tmp_path / "on", 0, 256, ended=False)).read_text()


def test_a_diagnosis_has_a_page_of_its_verdicts(tmp_path):
    runs = {side: [read_run(run_folder(tmp_path / f"{side}-{seed}", seed, batch)).record.to_json() for seed in range(3)]
            for side, batch in (("small", 32), ("large", 1024))}  # fmt: skip
    write_json(tmp_path / "found" / "runs.json", {**runs, "samples": [64], "notes": ["a note"]})
    document = Document(report.write(tmp_path / "found").read_text())
    texts = "".join(document.texts)
    assert "The large batch is worse" in texts
    for words in HYPOTHESES.values():
        assert words in texts
    assert "a note" in texts


def test_the_command_tells_where_the_page_is(hostile_folder, tmp_path, capsys):
    assert main(["report", str(hostile_folder), "--out", str(tmp_path / "a" / "page.html"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report"] == str(tmp_path / "a" / "page.html")
    assert told["bytes"] == (tmp_path / "a" / "page.html").stat().st_size < 3e6
    assert main(["report", str(hostile_folder), "--out", str(tmp_path / "page.html")]) == 0
    assert re.fullmatch(r".*page\.html \(2\.\d MB\)\n", capsys.readouterr().out)
