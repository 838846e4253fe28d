"""Results as values, and the files they are kept in. No torch."""

from largebatch.results._chart import Chart, Series
from largebatch.results._folder import RunFolder, run_digest
from largebatch.results._json import decode, encode, flush_folder, json_text, read_json, replace_file, write_json
from largebatch.results._mistakes import from_zero, positive, refuse
from largebatch.results._quantiles import student_quantile
from largebatch.results._result import Estimate, Result
from largebatch.results._stats import (
    FEWEST_SEEDS,
    LineFit,
    line_fit,
    mean_interval,
    paired_difference,
    paired_ratio,
    welch_difference,
    welch_ratio,
)
from largebatch.results._table import Cell, Column, Table
from largebatch.results._tests import (
    NonInferiority,
    fieller_share,
    holm,
    non_inferiority,
    paired_p_value,
    seeds_to_settle,
)

__all__ = [
    "FEWEST_SEEDS",
    "Cell",
    "Chart",
    "Column",
    "Estimate",
    "LineFit",
    "NonInferiority",
    "Result",
    "RunFolder",
    "Series",
    "Table",
    "decode",
    "encode",
    "fieller_share",
    "flush_folder",
    "from_zero",
    "holm",
    "json_text",
    "line_fit",
    "mean_interval",
    "non_inferiority",
    "paired_difference",
    "paired_p_value",
    "paired_ratio",
    "positive",
    "read_json",
    "refuse",
    "replace_file",
    "run_digest",
    "seeds_to_settle",
    "student_quantile",
    "welch_difference",
    "welch_ratio",
    "write_json",
]
