"""Tables: aligned, escaped, and complete in CSV."""

import csv
import io
import math

import pytest

from largebatch.results import Column, Estimate, Table

ACCURACY = Estimate(97.81, 0.07, 97.6, 98.0, 5)
TABLE = Table(
    ["recipe", Column("time", "s", ".1f"), "updates", Column("test accuracy", "%"), "ok"],
    [["small", 12.34, 1000, ACCURACY, True], ["large | linear", None, 7, None, False]],
)


def test_text_is_aligned_numbers_to_the_right():
    assert TABLE.text().splitlines() == [
        "recipe          time [s]  updates     test accuracy [%]  ok",
        "--------------  --------  -------  --------------------  ---",
        "small               12.3     1000  97.81 [97.60, 98.00]  yes",
        "large | linear         –        7                     –  no",
    ]


def test_markdown_escapes_bars():
    assert TABLE.markdown().splitlines() == [
        "| recipe | time [s] | updates | test accuracy [%] | ok |",
        "| --- | ---: | ---: | ---: | --- |",
        "| small | 12.3 | 1000 | 97.81 [97.60, 98.00] | yes |",
        "| large \\| linear | – | 7 | – | no |",
    ]


def test_csv_keeps_every_digit_and_the_interval():
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows[0] == [
        "recipe", "time [s]", "updates", "test accuracy [%]", "test accuracy [%] low", "test accuracy [%] high", "ok"
    ]  # fmt: skip
    assert rows[1] == ["small", "12.34", "1000", "97.81", "97.6", "98.0", "True"]
    assert rows[2] == ["large | linear", "", "7", "", "", "", "False"]


def test_no_rows_no_numbers_and_nan():
    assert Table(["a", "b"], []).text() == "a  b\n-  -"
    assert Table(["a"], [[math.nan]]).text().splitlines()[-1] == "nan"
    assert Table(["a"], [[1.5], ["x"]]).markdown().splitlines()[1] == "| --- |"


def test_rows_of_another_length_are_all_named():
    with pytest.raises(
        ValueError, match="table: expected 2 cells in every row, got: row 0 has 1, row 2 has 3; fill with None"
    ):
        Table(["a", "b"], [[1], [1, 2], [1, 2, 3]])
