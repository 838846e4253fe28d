import importlib.util
from pathlib import Path

import pytest
from hostile_names import HOSTILE


@pytest.fixture(scope="session")
def study_folder():
    """The maker of made-up study folders, which the benchmark uses too."""
    path = Path(__file__).parents[2] / "benchmarks" / "report_paint.py"
    specification = importlib.util.spec_from_file_location("report_paint", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.study_folder


@pytest.fixture(scope="session")
def hostile_folder(study_folder, tmp_path_factory):
    """Four cells of three seeds whose names attack; a task's name does too. The second cell's first run diverged."""
    folder = tmp_path_factory.mktemp("hostile")
    return study_folder(folder, HOSTILE, seeds=3, epochs=6, updates=40, task=HOSTILE[1])
