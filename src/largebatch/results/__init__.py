"""Results as values, and the files they are kept in. No torch."""

from largebatch.results._folder import RunFolder, run_digest
from largebatch.results._json import decode, encode, json_text, read_json, write_json
from largebatch.results._result import Estimate, Result
from largebatch.results._stats import (
    LineFit,
    line_fit,
    mean_interval,
    paired_difference,
    paired_ratio,
    welch_difference,
    welch_ratio,
)
from largebatch.results._table import Cell, Column, Table

__all__ = [
    "Cell",
    "Column",
    "Estimate",
    "LineFit",
    "Result",
    "RunFolder",
    "Table",
    "decode",
    "encode",
    "json_text",
    "line_fit",
    "mean_interval",
    "paired_difference",
    "paired_ratio",
    "read_json",
    "run_digest",
    "welch_difference",
    "welch_ratio",
    "write_json",
]
