"""The page of a large study in a real browser: how soon its words can be read, and how soon every plot is drawn.

The study is made up: 40 cells of 5 seeds, 60 epochs, 400 logged updates each, with what a study can hold besides.
Chromium is Debian's; the page is opened from the disk, each time by a new browser.

    .venv/bin/python benchmarks/report_paint.py
"""

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from largebatch import report
from largebatch.comparison import (
    CellRow,
    ContrastRow,
    LookRow,
    MeasureRow,
    PathRow,
    PlaneRow,
    RunRow,
    SpectrumRow,
    StudyResult,
)
from largebatch.diagnose import Path as LinePath
from largebatch.diagnose import Plane, Spectrum
from largebatch.results import Estimate, RunFolder, mean_interval, write_json

CHROMIUM = "/usr/bin/chromium"
ROUNDS = 5
TRAIN_SIZE = 51_200


def main() -> None:
    """Print sizes and times."""
    with tempfile.TemporaryDirectory() as home:
        folder = study_folder(Path(home), [f"cell {i}" for i in range(40)], seeds=5, epochs=60, updates=400)
        begun = time.perf_counter()
        page = report.write(folder)
        written = time.perf_counter() - begun
        megabytes = page.stat().st_size / 1e6
        rounds = [painted(page) for _ in range(ROUNDS)]
    firsts, lasts = zip(*rounds, strict=True)
    print(f"200 runs: {megabytes:.2f} MB, written in {written:.1f} s")
    for name, times in (("first paint", firsts), ("last plot", lasts)):
        print(f"{name}: {statistics.median(times):.2f} s ({min(times):.2f}–{max(times):.2f})")


def painted(page: Path) -> tuple[float, float]:
    """Seconds from opening the page to its first words, and to its last plot."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(page.as_uri())
        tab.wait_for_selector("figure:not([data-drawn])", state="detached", timeout=120_000)
        last = tab.evaluate("performance.now()") / 1000
        first = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
        browser.close()
    return first, last


def study_folder(
    folder: Path, names: Sequence[str], *, seeds: int, epochs: int, updates: int, task: str = "made/up"
) -> Path:
    """A study of these cells that never was: smooth curves, one diverged run, one of each picture.

    Args:
        names: of the cells; the first is the reference.
        seeds: of each cell.
        epochs: logged rows of each run at ends of epochs, and `updates` at updates.
    """
    length = (epochs, updates)
    runs = [_run(folder, name, cell, seed, length) for cell, name in enumerate(names) for seed in range(seeds)]
    cells = tuple(_cell(name, cell, [run for run in runs if run.cell == name]) for cell, name in enumerate(names))
    first, last = names[0], names[-1]
    study = StudyResult(
        name="made-up", question="is it quick?", task=task, seeds=tuple(range(seeds)), complete=True,
        answer=(f"{first} is better than {last}.", "The rest is made up."), cells=cells,
        contrasts=(_contrast("gap", first, last, primary=True), _contrast("other", last, first, primary=False)),
        runs=tuple(runs),
        measurements=tuple(_measure(run, key) for run in runs for key in ("lambda_max", "asam")),
        looks=tuple(_look(run, i, epochs, updates) for run in runs for i in range(6)),
        paths=(PathRow(first, last, 0, _path()),), planes=(PlaneRow(last, 0, _plane()),),
        spectra=(SpectrumRow(first, 0, _spectrum()),), notes=("Nothing here was measured.",), command="none",
        versions={"largebatch": "0"}, seconds=float(len(runs)), references=("Keskar et al. 2017, arXiv 1609.04836",),
    )  # fmt: skip
    write_json(folder / "result.json", study.to_json())
    return folder


def _run(folder: Path, name: str, cell: int, seed: int, length: tuple[int, int]) -> RunRow:
    epochs, updates = length
    diverged = cell == 1 and seed == 0
    digest = f"{cell:06x}{seed:06x}"
    RunFolder(folder / "runs" / digest).append(_log(cell, seed, epochs // 3 if diverged else epochs, updates, epochs))
    status, reason = ("diverged", "diverged at step 31: the loss is not finite") if diverged else ("finished", "")
    metrics = {"test_accuracy": 0.97 - 0.002 * cell + 0.001 * math.sin(seed), "train_loss": _loss(cell, seed, epochs)}
    return RunRow(name, seed, digest, status, reason, updates, epochs * TRAIN_SIZE, 1.0, metrics=metrics,
                  folder=f"runs/{digest}")  # fmt: skip


def _log(cell: int, seed: int, epochs: int, updates: int, planned: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for epoch in range(epochs):
        for update in range(epoch * updates // planned, (epoch + 1) * updates // planned):
            at = (update + 1) * planned / updates
            rows.append({
                "kind": "update", "phase": 0, "update": update, "epoch": at, "samples": round(at * TRAIN_SIZE), "lr": 0.1,
                "gradient_norm": _loss(cell, seed, at), "distance": 10 * math.sqrt(at), "path_length": 20 * at,
                "train_loss": _loss(cell, seed, at),
            })  # fmt: skip
        loss, accuracy = _loss(cell, seed, epoch + 1), 1 - 0.5 / (epoch + 1) - 0.002 * cell + 0.002 * math.sin(seed)
        rows.append({
            "kind": "epoch", "phase": 0, "epoch": epoch, "updates": (epoch + 1) * updates // planned,
            "samples": (epoch + 1) * TRAIN_SIZE, "seconds": 1.0 * epoch, "train_loss": loss, "train_accuracy": accuracy,
            "held_out_loss": loss + 0.1, "held_out_accuracy": accuracy - 0.02,
        })  # fmt: skip
    return rows


def _loss(cell: int, seed: int, epoch: float) -> float:
    return 2.3 * math.exp(-epoch / (5 + cell)) * (1 + 0.1 * math.sin(3 * seed + epoch)) + 0.01


def _cell(name: str, cell: int, runs: Sequence[RunRow]) -> CellRow:
    good = [run for run in runs if run.status == "finished"]
    accuracy = mean_interval([100 * run.metrics["test_accuracy"] for run in good], unit="%")
    estimates = {
        "test_accuracy": accuracy,
        "train_loss": mean_interval([run.metrics["train_loss"] for run in good]),
        "lambda_max (running)": mean_interval([_sharp(cell, run.seed) for run in good]),
        "asam (running)": mean_interval([_sharp(cell, run.seed) / 10 for run in good]),
    }
    gap = None if cell == 0 else mean_interval([0.2 * cell + 0.1 * math.sin(run.seed) for run in good], unit="points")
    return CellRow(
        name, "made up", "made/up", "network", cell == 0, 64 * 2 ** (cell % 8), "sgd", 0.1, "none", 32, 400, 60, 3.0,
        {"changes": []}, finished=len(good), diverged=len(runs) - len(good), estimates=estimates, gap=gap,
    )  # fmt: skip


def _sharp(cell: int, seed: int) -> float:
    return 2.0 + cell + 0.3 * math.sin(seed)


def _contrast(name: str, a: str, b: str, *, primary: bool) -> ContrastRow:
    estimate = Estimate(2.0, 0.4, 1.1, 2.9, 5, "points")
    return ContrastRow(name, "is it so?", "difference", a, b, "test_accuracy", estimate, primary, None, 0.01,
                       0.02 if primary else math.nan, "differs", f"{a} and {b} differ")  # fmt: skip


def _measure(run: RunRow, name: str) -> MeasureRow:
    value = _sharp(int(run.digest[:6], 16), run.seed) / (10 if name == "asam" else 1)
    return MeasureRow(run.cell, run.seed, run.digest, name, value, math.nan, "running", 1024, 0.1, "nothing")


def _look(run: RunRow, i: int, epochs: int, updates: int) -> LookRow:
    share = 2.0 ** (i - 5)
    values = {"lambda_max": 3 * share + 0.1 * math.sin(run.seed), "sharpness_times_lr": 1.9 * share,
              "batch_cosine": 1 - 0.8 * share, "noise_scale": 500 * share}  # fmt: skip
    update = round(share * updates) - 1
    return LookRow(run.cell, run.seed, update, share * epochs, round(share * epochs * TRAIN_SIZE), 0.1, values)


def _path() -> LinePath:
    alphas = tuple(i / 8 - 1 for i in range(25))
    loss = tuple(0.01 + a * a for a in alphas)
    errors, accuracy = tuple(0.002 for _ in alphas), {"accuracy": tuple(1 / (1 + a * a) for a in alphas)}
    return LinePath("line", alphas, loss, errors, tuple(v + 0.05 for v in loss), errors, accuracy, accuracy, 0.1, 0.5, 9.0,
                    30.0, math.nan, 512, 75.0, **_conditions(75.0))  # fmt: skip


def _plane() -> Plane:
    at = tuple(i / 5 - 1 for i in range(11))
    grid = tuple(tuple(0.01 + x * x + 3 * y * y for y in at) for x in at)
    errors = tuple(tuple(0.01 for _ in at) for _ in at)
    return Plane(at, at, grid, errors, grid, errors, {}, {}, (1.0, 1.0), 0.0, "filter", 0, 512, 121.0,
                 **_conditions(121.0))  # fmt: skip


def _spectrum() -> Spectrum:
    nodes = tuple(tuple(i / 10 - 0.2 + probe / 50 for i in range(30)) for probe in range(3))
    weights = tuple(tuple(1 / 30 for _ in range(30)) for _ in range(3))
    return Spectrum((2.7, 2.1), (0.01, 0.01), (-0.2,), (0.01,), True, 0.1, None, nodes, weights, 9226, 0,
                    **_conditions(40.0))  # fmt: skip


def _conditions(passes: float) -> dict[str, Any]:
    return {"batch_norm": "none", "samples": 1024, "dtype": "float32", "passes": passes, "seconds": 1.0}


if __name__ == "__main__":
    main()
