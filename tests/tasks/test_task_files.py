"""`path/to/file.py:name`: the user's file is imported as Python would, and each mistake in it is one line."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from largebatch.tasks import find, load

GOOD = '''
"""A task of one's own."""
import torch
from torch import nn
from largebatch.core import Task, cross_entropy

data = torch.randn(8, 3), torch.arange(8) % 2
task = Task("mine", lambda: nn.Linear(3, 2), data, data, cross_entropy)

def build() -> Task:
    return task

def sized(n: int) -> Task:
    return task

def nothing() -> None:
    return None

def broken() -> Task:
    return 1 / 0

number = 3
'''


@pytest.fixture(autouse=True)
def _clean_imports() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("largebatch_task_", "neighbour")):
            del sys.modules[name]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_task.py"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("name", ["task", "build"])
def test_a_task_or_a_function_that_returns_one(file: Path, name: str) -> None:
    task = find(f"{file}:{name}")
    assert task.name == "mine"
    assert task.source == GOOD


def test_a_relative_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert load("my_task.py:task").name == "mine"


def test_the_file_may_import_its_neighbours(file: Path) -> None:
    (file.parent / "neighbour_model.py").write_text("from torch import nn\nnet = lambda: nn.Linear(3, 2)\n")
    file.write_text(GOOD.replace("import torch\n", "import torch, neighbour_model\n", 1))
    assert load(f"{file}:task").name == "mine"


def test_the_file_may_define_dataclasses(file: Path) -> None:
    # with their annotations as text they look their module up in sys.modules
    sizes = "@dataclasses.dataclass\nclass Sizes:\n    n: dataclasses.InitVar[int]\n"
    file.write_text(f"from __future__ import annotations\nimport dataclasses\n{GOOD}\n{sizes}")
    assert load(f"{file}:task").name == "mine"


def test_an_edited_file_is_read_again(file: Path) -> None:
    load(f"{file}:task")
    file.write_text(GOOD.replace('"mine"', '"ours"'))  # of the same length, in the same second
    task = load(f"{file}:task")
    assert task.name == "ours"
    assert '"ours"' in task.source
    assert not (file.parent / "__pycache__").exists()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected path/to/file\.py:name, found no Python file .*gone\.py in "):
        load(f"{tmp_path}/gone.py:task")
    (tmp_path / "notes.txt").write_text(GOOD)
    with pytest.raises(FileNotFoundError, match=r"found no Python file .*notes\.txt"):
        load(f"{tmp_path}/notes.txt:task")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import torch\nx = 1 / 0\n",
            r"line 2: expected a task, got ZeroDivisionError: division by zero: correct the file",
        ),
        ("x = (\n", r"line 1: expected a task, got SyntaxError: '\(' was never closed"),
        ("\nimport nowhere_to_be_found\n", "line 2: .*ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("def f():\n    raise OSError('two\\nlines')\n\nf()\n", "line 2: .*OSError: two lines: correct"),
        ("raise SystemExit(3)", "line 1: .*SystemExit: 3"),
    ],
)
def test_a_file_that_fails_is_one_line_that_points_into_it(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=f"^{file}, {message}") as caught:
        load(f"{file}:task")
    assert "\n" not in str(caught.value)
    assert "largebatch_task_my_task" not in sys.modules


def test_a_file_that_is_no_text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\0")
    with pytest.raises(ValueError, match=r"my_task\.py.*: expected a task, got SyntaxError"):
        load(f"{file}:task")


def test_a_function_that_fails_points_into_the_file(file: Path) -> None:
    line = GOOD.splitlines().index("    return 1 / 0") + 1
    with pytest.raises(ValueError, match=f"my_task.py, line {line}: expected a task, got ZeroDivisionError"):
        load(f"{file}:broken")


def test_a_missing_name_is_answered_with_what_there_is(file: Path) -> None:
    with pytest.raises(
        ValueError, match=r"expected a task 'tsak' in .*my_task\.py; .* the tasks .*build, .*task: write"
    ):
        load(f"{file}:tsak")
    with pytest.raises(ValueError, match=r"expected the name of a task behind a colon; .* defines the tasks "):
        find(str(file))
    file.write_text("number = 3\n")
    with pytest.raises(ValueError, match=r"my_task\.py defines no Task: write"):
        load(f"{file}:task")


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("number", "int"),
        ("nothing", "a function that returned NoneType"),
        ("sized", "function"),
        ("Task", "type"),
    ],
)
def test_something_else_by_that_name(file: Path, name: str, got: str) -> None:
    with pytest.raises(ValueError, match=f"expected a Task or a function without arguments .*, got {got}: see"):
        load(f"{file}:{name}")
