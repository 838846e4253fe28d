"""F1 on Fashion-MNIST: the critical batch by the noise scale, by branches and by a sweep, and whether they agree.

Writes docs/results/critical-batch.md and its picture. The plan stands here, and the notebook (docs/LOG.md, 2026-11-25)
says how it came to be: a trunk of 10,240 samples at batch 256, its rate tuned; branches of 16,384 samples at the rates
that its noise scale gives, the largest about that scale; a sweep to a training loss of 0.4 with rates tuned at each batch.

    python benchmarks/critical_batch.py            # runs/critical-batch; interrupted work is continued
"""

import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import torch
from pairing import machine

import largebatch
from largebatch import tasks, trials
from largebatch.probe import CriticalBatch, Route
from largebatch.results import Cell, Chart, Column, Series, Table, read_json
from largebatch.target import fit_hyperbola, samples_to_target
from largebatch.trials import Sweep, Trial

TASK = "fashion-mnist/f1"
PLAN = trials.ProbePlan(
    samples=10_240,
    batch_sizes=(64, 128, 256, 512, 1024, 2048, 4096, 8192),
    branch_batch_sizes=(64, 128, 256, 512, 1024, 2048),
    branch_samples=16_384,
    routes=("noise scale", "branches", "sweep"),
    branch_seeds=1,
    sweep_seeds=3,
    target=0.4,
    longest=200_000,
    period=1280,
    examined=1024,
)
RUNS = Path("runs/critical-batch")
RESULTS = Path("docs/results")


def main() -> None:
    """Measure what is not measured yet, then write the page."""
    torch.set_num_threads(1)
    task = tasks.find(TASK)
    assert task.recipe is not None
    print(trials.probe_cost(task, task.recipe, PLAN).text(), flush=True)
    found = trials.run_probe(task, task.recipe, PLAN, out=RUNS)
    print(found.text())
    sweep = read_sweep(RUNS / "sweep")
    branches = trials.Branches.from_json(read_json(RUNS / "branches.json"))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "critical-batch.svg").write_text(picture(sweep, found))
    (RESULTS / "critical-batch.md").write_text(page(found, sweep, branches))


def read_sweep(folder: Path) -> Sweep:
    """What the sweep kept."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    header = read_json(folder / "sweep.json")
    return Sweep(header["target"], header["period"], tuple(Trial.from_json(json.loads(line)) for line in lines))


def sweep_table(sweep: Sweep) -> str:
    """A row for each batch."""
    fit = fit_hyperbola(sweep.reached(), missed=sweep.missed(), period=sweep.periods())
    rows: list[list[Cell]] = []
    for size in sweep.batch_sizes:
        reached = sweep.reached()[size]
        runs = ", ".join(f"{value:.0f}" for value in reached) + " missed" * len(sweep.missed()[size])
        middle = sum(reached) / len(reached) if reached else None
        updates = None if middle is None else middle / size
        rows.append([size, sweep.rate(size), runs, middle, updates, fit.predict(size).value])
    columns = ["batch", "rate, tuned", "samples to the target, by seed", "mean", "updates", "curve"]
    return (
        Table(columns, rows).markdown()
        + f"\n\nE_min {fit.fewest_samples}, B_crit {fit.critical_batch_size}: {verdict(fit)}"
    )


def verdict(fit: Any) -> str:
    """Whether the curve fits, with the reservation."""
    return ("it fits" if fit.fits else "it does NOT fit") + (f"; {fit.reason}" if fit.reason else "")


def branch_table(branches: trials.Branches) -> str:
    """A row for each batch."""
    rows: list[list[Cell]] = []
    for size, paths in branches.paths().items():
        rate = next(branch.lr for branch in branches.branches if branch.batch_size == size)
        for seed, path in enumerate(paths, start=1):
            rows.append([size, rate, seed, ", ".join(f"{loss:.3f}" for _, loss in path)])
    return Table(["batch", "rate, by the noise scale", "order of the data", "loss at each look"], rows).markdown()


def routes_table(found: CriticalBatch) -> str:
    """The answer."""
    rows: list[list[Cell]] = [
        [route.route, *(None if math.isnan(value) else value for value in (route.batch_size, route.low, route.high)),
         route.cost_samples, route.note]
        for route in found.critical
    ]  # fmt: skip
    columns = ["route", Column("critical batch"), "low", "high", Column("cost", "samples"), "note"]
    return Table(columns, rows).markdown()


def picture(sweep: Sweep, found: CriticalBatch) -> str:
    """Samples to the target against the batch, the curve, and where each route puts the critical batch."""
    fit = fit_hyperbola(sweep.reached(), missed=sweep.missed(), period=sweep.periods())
    runs = [(float(size), value) for size, values in sweep.reached().items() for value in values]
    sizes = [PLAN.batch_sizes[0] * 1.2**k for k in range(24)]
    curve = samples_to_target(sizes, fit.fewest_samples.value, fit.critical_batch_size.value)
    series = [
        Series("runs", runs, line=False),
        Series("E_min·(1 + B/B_crit)", list(zip(sizes, curve.tolist(), strict=True)), dots=False),
    ]
    verticals = [(route.batch_size, route.route) for route in found.critical if route.is_known]
    return Chart(f"F1 on Fashion-MNIST: samples to a training loss of {PLAN.target}", "global batch", "samples", series,
                 verticals).svg()  # fmt: skip


def page(found: CriticalBatch, sweep: Sweep, branches: trials.Branches) -> str:
    """The Markdown."""
    by_name = {route.route: route for route in found.critical}
    return f"""# F1 on Fashion-MNIST: how large a batch still pays

{conclusion(by_name)}

{routes_table(found)}

![samples to the target](critical-batch.svg)

SGD with Nesterov momentum 0.9, ghosts of 32, constant rates. Losses are training losses on {PLAN.examined} samples with
batch statistics. Critical batch: where a target needs twice the fewest samples and twice the fewest updates.

## Sweep: samples to a loss of {PLAN.target}

Rates tuned on a seed of their own over doublings; a look every {sweep.period} samples, or every update where that is
more.

{sweep_table(sweep)}

## Branches

{branches.samples} samples each, from the end of the trunk at {branches.start_samples} samples, where the loss was
{branches.start_loss:.4f}.

{branch_table(branches)}

## Noise scale

{noise_lines(found)}

Made by `python benchmarks/critical_batch.py`, one thread beside other work. largebatch
{largebatch.__version__}, torch {torch.__version__}, Python {platform.python_version()}, {machine()["cpu"]},
{os.cpu_count()} cores.
"""


def conclusion(routes: dict[str, Route]) -> str:
    """The targets of the project, held or missed, in figures."""
    noise, branches, sweep = (routes[name] for name in ("noise scale", "branches", "sweep"))
    if not sweep.is_known:
        return f"The sweep gave no number: {sweep.note}."
    parts: list[str] = [f"The sweep says {sweep.batch_size:.0f} [{sweep.low:.0f}, {sweep.high:.0f}]."]
    cost = 100 * branches.cost_samples / sweep.cost_samples
    if branches.is_known:
        ratio = branches.batch_size / sweep.batch_size
        held = "held" if 1 / 1.5 <= ratio <= 1.5 and cost <= 5 else "MISSED"
        parts.append(
            f"Branches say {ratio:.2f} times that at {cost:.1f} % of its cost (target: within a factor 1.5 at 5 % or less: "
            f"{held})."
        )
    else:
        parts.append(f"Branches gave no number ({branches.note}): target MISSED.")
    if noise.is_known:
        parts.append(f"The noise scale is {noise.batch_size / sweep.batch_size:.2f} times it.")
    else:
        parts.append(f"The noise scale gave no number: {noise.note}.")
    return " ".join(parts)


def noise_lines(found: CriticalBatch) -> str:
    """What B_simple is made of, and the warnings."""
    assert found.noise is not None
    lines = [
        f"tr Σ {found.noise.noise_trace}, |G|² {found.noise.gradient_squared_norm}, from {found.noise.looks} looks at the "
        f"second half of the trunk, {found.noise.first_samples:.0f} to {found.noise.last_samples:.0f} samples."
    ]
    lines += [f"* {pair.first} ÷ {pair.second}: {pair.ratio:.2g}; intervals {'overlap' if pair.agree else 'do not overlap'}"
              for pair in found.agreements]  # fmt: skip
    return "\n".join([*lines, *(f"* {warning}" for warning in found.warnings)])


if __name__ == "__main__":
    main()
