"""A user's own task: `path/to/file.py:name`.

The file runs as Python would import it: its folder joins the import path, so that it can import its neighbours. What is
named may be a `Task` or a function without arguments that returns one.
"""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from largebatch.core import Task
from largebatch.tasks._registry import get

_Result = TypeVar("_Result")


def find(text: str) -> Task:
    """The built-in task of that name, or the task `name` of a `path/to/file.py:name`.

    Raises:
        ValueError, FileNotFoundError: as in `get` and `load`.
    """
    return load(text) if _cut(text)[0].endswith(".py") else get(text)


def load(text: str) -> Task:
    """The task `name` of a `path/to/file.py:name`, with the file's text as its `source` and its place as `origin`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file fails (with the exception and the line), does not define the name (with what it does
            define), or defines something else by it.
    """
    file, name = _cut(text)
    path = Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise FileNotFoundError(f"{text}: expected path/to/file.py:name, found no Python file {file} in {Path.cwd()}")
    source = _running(path, lambda: importlib.util.decode_source(path.read_bytes()))
    module = _running(path, lambda: _run(path, source))
    if not hasattr(module, name):
        expected = f"a task {name!r} in {file}" if name else "the name of a task behind a colon"
        raise ValueError(f"{text}: expected {expected}; {file} defines {_defined(module)}: write {file}:NAME")
    found = getattr(module, name)
    task = _running(path, found) if _takes_no_arguments(found) else found
    if not isinstance(task, Task):
        raise ValueError(
            f"{text}: expected a Task or a function without arguments that returns one, got "
            f"{'a function that returned ' if task is not found else ''}{type(task).__name__}: see largebatch.core.Task"
        )
    return replace(task, source=source, origin=f"{path.resolve()}:{name}")


def _cut(text: str) -> tuple[str, str]:
    """File and name; the name is empty where none is given."""
    file, colon, name = text.rpartition(":")
    return (file, name) if colon and not name.endswith(".py") else (text, "")


def _run(path: Path, source: str) -> ModuleType:
    """The module. Not through the import system, whose cached bytecode can be older than an edit of the same second."""
    module = ModuleType(f"largebatch_task_{path.stem}")
    module.__file__ = str(path)
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # dataclasses, for one, look a class's module up by name
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, path, "exec"), vars(module))
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _running(path: Path, function: Callable[[], _Result]) -> _Result:
    """The function's result; what the user's code raises becomes one line that points into the file."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _same(frame.filename, path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        raise ValueError(
            f"{path}{f', line {line}' if line else ''}: expected a task, got {type(error).__name__}: "
            f"{' '.join(str(error).split())}: correct the file"
        ) from error


def _same(filename: str, path: Path) -> bool:
    return Path(filename).resolve() == path.resolve()


def _takes_no_arguments(found: object) -> bool:
    if not callable(found) or isinstance(found, type | Task):
        return False
    parameters = inspect.signature(found).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _defined(module: ModuleType) -> str:
    """The names in the module that hold a task or may return one."""
    names = [
        name
        for name, value in vars(module).items()
        if isinstance(value, Task)
        or (inspect.isfunction(value) and value.__module__ == module.__name__ and _takes_no_arguments(value))
    ]
    return f"the tasks {', '.join(sorted(names))}" if names else "no Task"
