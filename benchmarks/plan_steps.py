"""Step times predicted from micro-benchmarks, against step times that were held out.

For each net: compute at three sizes, all-reduce at five, overlap from the same three sizes on two workers; then sizes
between them on one worker and on two (gloo, one thread a rank), predicted first and measured after. Appends to
docs/results/plan-steps.md what one net gave.

    python benchmarks/plan_steps.py f1      # or c1, or wide; about a minute each, on a quiet machine
"""

import argparse
from pathlib import Path

from pairing import machine

from largebatch import study, tasks
from largebatch.results import Cell, Column, Table

HERE = Path(__file__).parent
NETS = {"f1": "fashion-mnist/f1", "c1": "fashion-mnist/c1", "wide": f"{HERE / 'wide_net.py'}:task"}
FITTED = {"f1": (64, 128, 256), "c1": (32, 64, 128), "wide": (32, 64, 128)}
HELD_OUT = {"f1": (96, 192), "c1": (48, 96), "wide": (48, 96)}
UPDATES = 50
RESULTS = Path("docs/results/plan-steps.md")


def main() -> None:
    """Measure one net and append its rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("net", choices=NETS)
    net = parser.parse_args().net
    task = tasks.find(NETS[net])
    found = study.measure_steps(task, local_batch_sizes=FITTED[net])
    rows: list[list[Cell]] = []
    for size in HELD_OUT[net]:
        for workers in (1, 2):
            predicted = float(found.step_time(together=workers > 1).seconds(workers, size))
            measured = study.time_updates(NETS[net], size, workers=workers, updates=UPDATES)
            rows.append([net, workers, size, 1e3 * predicted, 1e3 * measured, 100 * (predicted / measured - 1)])
    columns = ["net", Column("workers"), Column("samples each"), Column("predicted", "ms"), Column("measured", "ms"),
               Column("off by", "%", ".1f")]  # fmt: skip
    table = Table(columns, rows).markdown()
    print(table, found.text(), sep="\n\n")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    head = "" if RESULTS.exists() else "# Step times predicted from micro-benchmarks\n"
    with RESULTS.open("a") as file:
        where = {name: value for name, value in machine().items() if name in ("cpu", "load", "torch")}
        file.write(
            f"{head}\n## {net}\n\nFitted at {FITTED[net]} samples a worker: {found.text()}.\n\n{table}\n\n{where}\n"
        )


if __name__ == "__main__":
    main()
