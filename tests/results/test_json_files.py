"""JSON that keeps every float, and files that are whole or not there."""

import json
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from largebatch.results import decode, encode, json_text, read_json, write_json

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text().filter(lambda t: t not in ("NaN", "Infinity", "-Infinity")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def refuse_word(word):
    raise AssertionError(f"{word} is not JSON")


@given(PLAIN)
@settings(deadline=None)
def test_any_plain_value_comes_back_from_strict_json(value):
    text = json_text(value)
    back = decode(json.loads(text, parse_constant=refuse_word))
    assert repr(back) == repr(value)  # repr, because NaN differs from itself


def test_numpy_numbers_and_tuples_become_plain():
    np = pytest.importorskip("numpy")
    assert encode({1: (np.float32(0.5), np.int64(3), np.float64("nan"))}) == {"1": [0.5, 3, "NaN"]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {2}]}, r"value\.a\[1\]: expected plain data for JSON, got a set; convert it first"),
        ({"name": "NaN"}, r"value\.name: expected a text that does not read back as a number, got 'NaN'"),
    ],
)
def test_what_would_not_come_back_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        encode(value)


def test_a_file_is_replaced_whole_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"x": math.inf, "é": 1})
    assert read_json(path) == {"x": math.inf, "é": 1}
    write_json(path, [1])
    assert read_json(path) == [1]
    with pytest.raises(ValueError, match="got a object"):
        write_json(path, object())
    assert read_json(path) == [1]
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


def test_a_crash_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, 1)

    def crash(*_):
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        write_json(path, 2)
    assert read_json(path) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_the_file_may_be_read_by_others_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644


def test_a_file_that_is_no_json_is_refused_by_name(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"a\.json: expected JSON, got .*; delete the file, or restore it"):
        read_json(tmp_path / "a.json")
