"""The published measurements beside the project folder; tests that need them are skipped where they are not."""

import csv
from pathlib import Path

import pytest

MLPERF = Path(__file__).parents[3] / "shared" / "data" / "mlperf_rcp.csv"

needs_mlperf = pytest.mark.skipif(not MLPERF.exists(), reason="no MLPerf reference points beside the project")


def mlperf():
    """{workload: {batch: values}}."""
    workloads = {}
    with MLPERF.open(newline="") as file:
        for row in csv.DictReader(file):
            values = [float(value) for value in row["to_converge"].split()]
            workloads.setdefault(row["benchmark"], {})[int(row["batch_size"])] = values
    return workloads
