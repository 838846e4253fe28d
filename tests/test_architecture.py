"""Imports run down the floors: a room imports only lower ones, and numbers-only rooms load no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "largebatch"
FLOORS = {
    "recipe": 0, "results": 0, "processes": 0,
    "core": 1, "target": 1, "culprits": 1,
    "curvature": 2, "noise": 2, "tasks": 2, "replay": 2, "landscape": 2, "optimizers": 2,
    "sharpness": 3, "recording": 3,
    "train": 4, "check": 4, "probe": 4, "diagnose": 4, "plan": 4,
    "comparison": 5, "trials": 5, "integrations": 5,
    "study": 6,
    "report": 7,
    "cli": 8, "__main__": 9,
}  # fmt: skip


def imported_rooms(path):
    """Rooms that a file imports anywhere in it: at the top, lazily, or for type checking only."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [node.module] if node.module != "largebatch" else [f"largebatch.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "largebatch" and len(parts) > 1:
                yield node.lineno, parts[1]


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_lower_floors(path):
    room = room_of(path)
    assert room in FLOORS, f"{room} has no floor: put it into the design first"
    for line, other in imported_rooms(path):
        assert other == room or FLOORS[other] < FLOORS[room], f"{path}:{line}: {room} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_one_file_speaks_to_other_ranks(path):
    speaks = "torch.distributed" in {
        name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        if name
    }
    assert speaks == (path.name == "_collective.py")


def test_a_leak_upwards_would_be_noticed(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from largebatch import train\n    import largebatch.study._demo\n")
    assert list(imported_rooms(path)) == [(2, "train"), (3, "study")]


@pytest.mark.parametrize(
    "module",
    [
        "largebatch",
        "largebatch.recipe",
        "largebatch.results",
        "largebatch.target",
        "largebatch.culprits",
        "largebatch.processes",
        "largebatch.plan",
        "largebatch.cli",
    ],
)
def test_numbers_and_files_load_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_one_sitting(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 350, f"{path}: {len(lines)} lines; is it one idea?"
