"""What the README says is true: its Python runs in order, its commands are accepted, its links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from largebatch.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
TASK = next(block for block in BLOCKS if "def network" in block)
DDP = next(block for block in BLOCKS if "DistributedDataParallel" in block)
STUDY = next(block for block in BLOCKS if "study = Study(" in block)


def test_the_python_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in BLOCKS:
        if block is not DDP:
            exec(compile(block, "README.md", "exec"), names)
    said = capsys.readouterr().out
    assert "3.2 gradual(5ep,start_lr=0.1,at_most=0.2dur)" in said
    assert "finished" in said
    assert names["run"].metrics["test_accuracy"] > 0.8


def test_the_ddp_loop_gives_the_same_on_one_rank_and_two(tmp_path):
    (tmp_path / "my_task.py").write_text(
        "import torch\ntorch.manual_seed(1)\ntorch.set_default_dtype(torch.float64)\n" + TASK
    )
    (tmp_path / "ddp.py").write_text(DDP)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    for size in (1, 2):
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), "ddp.py"]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    states = [torch.load(tmp_path / f"ddp-{name}.pt", weights_only=True) for name in ("0-of-1", "0-of-2", "1-of-2")]
    for other in states[1:]:
        for name, value in states[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-10, atol=1e-12)


def with_runs(words):
    """Trains what a `diagnose` or `report` command speaks of, and expands its names as a shell would."""
    for name, batch in (("small", "32"), ("large", "128")):
        for seed in ("0", "1"):
            command = ["train", "my_task.py:task", "--batch", batch, "--seed", seed, "--set", "duration=1ep"]
            assert main([*command, "--out", f"runs/{name}-{seed}"]) == 0
    return [name for word in words for name in sorted(map(str, Path().glob(word))) or [word]]


@pytest.mark.parametrize("line", re.findall(r"^(largebatch \w.*?)(?:\s+#.*)?$", README, re.MULTILINE))
def test_commands_are_accepted(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_task.py").write_text(TASK)
    (tmp_path / "my_study.py").write_text(STUDY)
    (tmp_path / "ddp.py").write_text(DDP)
    words = shlex.split(line)[1:]
    if "fashion-mnist" in line and not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("needs Debian's dataset-fashion-mnist (make data)")
    if words[0] in ("diagnose", "report"):
        words = with_runs(words)
    if words[0] in ("train", "diagnose", "study") and "--dry-run" not in words:
        words.append("--dry-run")
    assert main(words) == 0
    assert capsys.readouterr().out


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"make ([a-z-]+)", README):
        assert target in targets
