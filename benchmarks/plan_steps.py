"""Step times predicted from micro-benchmarks, against step times that were held out.

For each net: compute at three sizes, all-reduce at five, overlap from the same three sizes on two workers; then sizes
between them on one worker and on two (gloo, one thread a rank), which are timed in the same rounds and not fitted. Appends
to docs/results/plan-steps.md what one net gave.

    python benchmarks/plan_steps.py f1      # or c1, or wide; two minutes each, on a quiet machine
"""

import argparse
from pathlib import Path
from textwrap import fill

from pairing import machine

from largebatch import tasks, trials
from largebatch.results import Cell, Column, Table

HERE = Path(__file__).parent
NETS = {"f1": "fashion-mnist/f1", "c1": "fashion-mnist/c1", "wide": f"{HERE / 'wide_net.py'}:task"}
FITTED = {
    "f1": (64, 128, 256),
    "c1": (32, 96, 160),
    "wide": (32, 96, 160),
}  # whole ghosts of 32: ranks have equal shares
HELD_OUT = {"f1": (96, 192), "c1": (64, 128), "wide": (64, 128)}
UPDATES, ROUNDS = 12, 5
RESULTS = Path("docs/results/plan-steps.md")


def main() -> None:
    """Measure one net and append its rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("net", choices=NETS)
    net = parser.parse_args().net
    task = tasks.find(NETS[net])
    found = trials.measure_steps(
        task, local_batch_sizes=FITTED[net], held_out=HELD_OUT[net], updates=UPDATES, rounds=ROUNDS
    )
    rows: list[list[Cell]] = [
        [
            net,
            row.workers,
            row.local_batch_size,
            1e3 * row.predicted_seconds,
            1e3 * row.measured_seconds,
            100 * row.error,
        ]
        for row in found.held_out
    ]
    columns = ["net", Column("workers"), Column("samples each"), Column("predicted", "ms"), Column("measured", "ms"),
               Column("off by", "%", ".1f")]  # fmt: skip
    table = Table(columns, rows).markdown()
    print(table, found.text(), sep="\n\n")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    head = "" if RESULTS.exists() else "# Step times predicted from micro-benchmarks\n"
    with RESULTS.open("a") as file:
        where = {name: value for name, value in machine().items() if name in ("cpu", "load", "torch")}
        fitted = fill(f"Fitted at {FITTED[net]} samples a worker: {found.text()}.", 125)
        file.write(f"{head}\n## {net}\n\n{fitted}\n\n{table}\n\n{where}\n")


if __name__ == "__main__":
    main()
