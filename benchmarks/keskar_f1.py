"""Keskar's first network at batch 256 and at 10 % of the data: does the sharpness come back, and what explains the gap?

The protocol of Keskar et al. 2017 (arXiv 1609.04836, section 2) on Fashion-MNIST instead of MNIST: F1, Adam at its defaults,
plain batch norm, the same rate at both batch sizes, equal epochs. Writes docs/results/keskar-f1.md and its pictures.

    python benchmarks/keskar_f1.py --train-only     # runs/keskar-f1/<batch>-<seed>; interrupted runs are continued
    python benchmarks/keskar_f1.py                  # then the diagnosis, the table and the pictures
"""

import argparse
import math
import os
import platform
import sys
from pathlib import Path

import torch
from path_figure import picture

import largebatch
from largebatch import tasks, train
from largebatch.diagnose import HYPOTHESES, Diagnosis, Evidence, Inquiry, Plan
from largebatch.recipe import Recipe
from largebatch.results import Cell, Estimate, Table, mean_interval

TASK = "fashion-mnist/f1"
SMALL, LARGE = 256, 6000
SEEDS = (0, 1, 2)
RECIPE = Recipe(
    SMALL, lr=1e-3, optimizer="adam", weight_decay=0.0, schedule="constant", ghost_batch_size=None, duration="20ep"
)
RUNS = Path("runs/keskar-f1")
RESULTS = Path("docs/results")
PLAN = Plan(samples=5000)  # Keskar et al. took batch statistics over 5,000 samples
PUBLISHED = {
    "metric_2_1": 167,
    "metric_2_1(epsilon=0.0005)": 70,
    "metric_2_1_subspace": 84,
    "metric_2_1_subspace(epsilon=0.0005)": 183,
}
"""Large ÷ small of the means in Keskar et al.'s tables 3 and 4, F1 on MNIST."""


def folder(batch: int, seed: int) -> Path:
    """Where a run is kept."""
    return RUNS / f"{batch}-{seed}"


def train_all() -> None:
    """Both batch sizes, seed by seed, so that pairs are complete early."""
    task = tasks.find(TASK)
    for seed in SEEDS:
        for batch in (LARGE, SMALL):
            run = train.fit(task, RECIPE.at(batch, rule="none"), seed=seed, out=folder(batch, seed))
            if run.status == "stopped":
                sys.exit(run.reason)
            print(f"{folder(batch, seed)}: {run.status}, test accuracy {run.metrics['test_accuracy']:.4f}", flush=True)


def accuracies(evidence: Evidence) -> str:
    """A row for each batch size."""
    rows: list[list[Cell]] = []
    for batch, runs in ((SMALL, evidence.small), (LARGE, evidence.large)):
        row: list[Cell] = [batch, runs[0].updates]
        for name in ("train_accuracy", "test_accuracy"):
            row.append(mean_interval([100 * run.metrics[name] for run in runs]))
        row += [", ".join(f"{100 * run.metrics['test_accuracy']:.2f}" for run in runs)]
        row.append(mean_interval([run.metrics["train_loss"] for run in runs]))
        rows.append(row)
    columns = ["batch", "updates", "train accuracy, %", "test accuracy, %", "test, by seed", "train loss"]
    return Table(columns, rows).markdown()


def sharpness(evidence: Evidence) -> str:
    """Every measure in both modes: geometric means over seeds, and the ratio with its interval."""
    kinds = {(row.name, row.batch_norm): None for row in evidence.rows if row.batch_norm in PLAN.modes}
    rows: list[list[Cell]] = []
    for name, mode in kinds:
        if name.rpartition("_")[2] in ("loss", "accuracy") or name in ("gradient_norm", "lambda_min"):
            continue
        read = evidence.measured(name, mode)
        by_seed = [", ".join(map(shown, map(read, runs))) for runs in (evidence.small, evidence.large)]
        rows.append([f"`{name}`", mode, *by_seed, known(evidence.ratio(read)), PUBLISHED.get(name)])
    columns = ["measure", "batch-norm statistics", f"batch {SMALL}, by seed", f"batch {LARGE}, by seed",
               "large ÷ small", "published, on MNIST"]  # fmt: skip
    return Table(columns, rows).markdown()


def shown(value: float | None) -> str:
    """Three digits; a dash for what was not measured."""
    return "–" if value is None else f"{value:.3g}"


def known(estimate: Estimate) -> Estimate | None:
    """None, a dash in a table, for what could not be told."""
    return None if math.isnan(estimate.value) else estimate


def judged(found: Diagnosis) -> str:
    """The verdicts, then evidence and advice."""
    rows: list[list[Cell]] = [[HYPOTHESES[v.name], v.verdict, known(v.estimate), v.n] for v in found.hypotheses]
    details = [f"* **{HYPOTHESES[v.name]}: {v.verdict}.** {v.evidence}. *{v.advice}.*" for v in found.hypotheses]
    table = Table(["hypothesis", "verdict", "effect", "seeds"], rows).markdown()
    return "\n".join([table, "", *details])


def report(found: Diagnosis, evidence: Evidence, seconds: float) -> str:
    """The page."""
    passes, line = sum(row.passes for row in found.measurements), found.paths["line"]
    return f"""# F1 on Fashion-MNIST at batch {SMALL} and {LARGE}

{found.sentence()}

Adam, rate 1e-3, defaults otherwise, no weight decay, constant rate, plain batch norm over the whole batch, 20 epochs;
seeds {", ".join(map(str, SEEDS))}; nothing but the batch differs. Intervals: 95 %, Student's t, over paired seeds. Made by

    python benchmarks/keskar_f1.py

which is `largebatch train` on {TASK} for each run, and then `largebatch diagnose runs/keskar-f1/{SMALL}-* --against
runs/keskar-f1/{LARGE}-* --samples {PLAN.samples}`. largebatch {largebatch.__version__}, torch {torch.__version__}, Python
{platform.python_version()}, {os.cpu_count()} cores; the measurements took {seconds / 60:.0f} minutes,
beside other work.

## Accuracies

{accuracies(evidence)}

## Sharpness

On {PLAN.samples} training samples, the same for all runs, float32. Statistics *batch* are those of these samples together,
Keskar's mode; *running* are the model's own. Published ratios: Keskar et al. 2017, tables 3 and 4.

{sharpness(evidence)}

## Verdicts

{judged(found)}

## Between the two solutions

Seed {SEEDS[0]}. Train figures on the {PLAN.samples} samples, test figures on all; batch-norm statistics taken anew at each
point. ‖x_{LARGE} − x_{SMALL}‖ = {line.distance:.1f}; barrier of the train loss on the line {line.barrier:.3g}.

![line](keskar-f1-line.svg)
![curve](keskar-f1-curve.svg)

{len(found.measurements)} measurements, {passes:.0f} passes forward and backward over their samples.
"""


def main() -> None:
    """Train, unless it is done; then diagnose, unless it is done; then write."""
    parser = argparse.ArgumentParser(
        description="F1 on Fashion-MNIST, batch 256 against 6000, after Keskar et al. 2017."
    )
    parser.add_argument("--train-only", action="store_true", help="leave the runs, measure nothing")
    arguments = parser.parse_args()
    train_all()
    if arguments.train_only:
        return
    groups = [[folder(batch, seed) for seed in SEEDS] for batch in (SMALL, LARGE)]
    inquiry = Inquiry(*groups, out=RUNS / "diagnosis", plan=PLAN)
    sys.stderr.write(inquiry.cost().text())
    found = inquiry.run()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for kind, path in found.paths.items():
        title = f"F1 on Fashion-MNIST: {kind} from batch {SMALL} to batch {LARGE}"
        (RESULTS / f"keskar-f1-{kind}.svg").write_text(picture(path, title, SMALL, LARGE))
    seconds = sum(row.seconds for row in found.measurements) + sum(path.seconds for path in found.paths.values())
    (RESULTS / "keskar-f1.md").write_text(report(found, inquiry.evidence(), seconds))
    print(found.text())


if __name__ == "__main__":
    main()
