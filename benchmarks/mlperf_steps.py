"""Samples-to-target predicted for batches left out, on MLPerf's reference points: the hyperbola against the next batch.

Reads `shared/data/mlperf_rcp.csv` beside the project folder (its README says where it comes from) and prints Markdown: every
workload's fit, the largest batch predicted from the others, and every batch from the others, with how often the 95 %
interval of the mean over its seeds held it. Evaluation periods are read off the values: the smallest gap between two of
one batch.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from largebatch.results import Cell, Column, Table
from largebatch.target import HyperbolaFit, fit_hyperbola

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "mlperf_rcp.csv"

Workload = dict[int, list[float]]


def main() -> None:
    """Print the tables."""
    if not DATA.exists():
        sys.exit(f"expected the reference points in {DATA}, found no such file; put them there")
    workloads = read()
    fits = {name: fit_hyperbola(runs, unit="") for name, runs in workloads.items()}
    heads = ["workload", "batches", "fewest samples or epochs", "critical batch", "period"]
    columns = [*heads, Column("seeds", "%", ".1f"), Column("scatter", "%", ".1f"), "fits"]
    rows: list[list[Cell]] = []
    for name, fit in fits.items():
        span = f"{min(workloads[name])} to {max(workloads[name])}"
        noise = [100 * fit.seed_noise.value, 100 * fit.batch_scatter.value]
        rows.append([name, span, fit.fewest_samples, fit.critical_batch_size, fit.period, *noise, fit.fits])
    print(Table(columns, rows).markdown())
    largest = {name: [max(runs)] for name, runs in workloads.items()}
    print("\n**The largest batch of each workload, from the others**\n")
    report(workloads, largest)
    print("\n**Every batch, from the others**\n")
    report(workloads, {name: list(runs) for name, runs in workloads.items()})


def read() -> dict[str, Workload]:
    """{workload: {batch: values}}."""
    workloads: dict[str, Workload] = {}
    with DATA.open(newline="") as file:
        for row in csv.DictReader(file):
            values = [float(value) for value in row["to_converge"].split()]
            workloads.setdefault(row["benchmark"], {})[int(row["batch_size"])] = values
    return workloads


def report(workloads: dict[str, Workload], left_out: dict[str, list[int]]) -> None:
    """Predict what is left out, a batch at a time, and sum up."""
    rows: list[list[Cell]] = []
    errors: list[tuple[float, float]] = []
    held: list[bool] = []
    for name, batch in ((name, batch) for name, batches in left_out.items() for batch in batches):
        runs = workloads[name]
        rest = {b: values for b, values in runs.items() if b != batch}
        fit = fit_hyperbola(rest)
        needed, near = middle(runs[batch], fit), middle(runs[neighbour(rest, batch)], fit)
        guess = fit.predict(batch, seeds=len(runs[batch]))
        errors.append((100 * (guess.value / needed - 1), 100 * (near / needed - 1)))
        row: list[Cell] = [name, str(batch), needed, guess.value]
        if len(rest) > 2:
            held.append(guess.low <= needed <= guess.high)
            rows.append([*row, guess.low, guess.high, *errors[-1], held[-1]])
        else:
            rows.append([*row, None, None, *errors[-1], None])
    if len(rows) <= len(workloads):
        heads = ["workload", "batch", Column("needed"), Column("predicted"), Column("low"), Column("high")]
        heads += [Column("error", "%", ".1f"), Column("same as the next smaller", "%", ".1f"), "inside"]
        print(Table(heads, rows).markdown() + "\n")
    median, naive = np.median(np.abs(errors), axis=0)
    print(
        f"median error {median:.1f} %, same as the neighbour {naive:.1f} %; inside the interval {sum(held)} of {len(held)}"
    )


def middle(values: list[float], fit: HyperbolaFit) -> float:
    """The median over seeds, in the middle of its evaluation period."""
    return float(np.median(values)) - fit.period / 2


def neighbour(rest: Workload, batch: int) -> int:
    """The next smaller batch, or the smallest."""
    return max((b for b in rest if b < batch), default=min(rest))


if __name__ == "__main__":
    main()
