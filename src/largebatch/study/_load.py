"""A study of one's own: `path/to/file.py:name`, a `Study` or a function without arguments that makes one."""

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from largebatch.comparison import Study

__all__ = ["load_study"]


def load_study(text: str) -> Study:
    """The study `name` of a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file fails, with the line, or has no such study.
    """
    file, _, name = text.rpartition(":")
    path = Path(file or text)
    if path.suffix != ".py" or not path.is_file():
        raise FileNotFoundError(f"{text}: expected path/to/file.py:name, found no Python file {path} in {Path.cwd()}")
    try:
        module = _run(path)
        found = getattr(module, name, None)
        study = found() if callable(found) else found
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        told = " ".join(str(error).split())
        raise ValueError(f"{where}: expected a study, got {type(error).__name__}: {told}: correct the file") from error
    if not isinstance(study, Study):
        defined = sorted(name for name, value in vars(module).items() if isinstance(value, Study))
        raise ValueError(
            f"{text}: expected a Study, or a function without arguments that returns one, got {type(study).__name__}; "
            f"{path} defines {', '.join(defined) or 'no Study'}: see largebatch.study.Study"
        )
    return study


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_loader(f"largebatch_study_{path.stem}", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look a class's module up by name
    exec(compile(importlib.util.decode_source(path.read_bytes()), path, "exec"), vars(module))
    return module
