"""The line and the curve between a small-batch and a large-batch solution, measured once and kept.

Keskar et al. 2017 (arXiv 1609.04836, figures 3 and 7) show one pair of their runs; here it is that of the lowest seed both
have. The training loss is that of the diagnosis' subset, the test loss that of all test samples; statistics of batch norms
are taken anew at each point.
"""

from typing import Literal

import torch

from largebatch.core import Risk, Task, data_size, has_batch_norm
from largebatch.diagnose._ledger import Ledger
from largebatch.diagnose._measure import Plan
from largebatch.diagnose._runs import Groups
from largebatch.landscape import Path, path

__all__ = ["join", "joining_passes", "read_paths"]

KINDS: tuple[Literal["line", "curve"], ...] = ("line", "curve")
POINTS = 25  # of each, as Keskar et al.


def join(groups: Groups, task: Task, plan: Plan, ledger: Ledger) -> dict[str, Path]:
    """Both paths, by kind; none where a quick plan leaves them out or no seed has finished on both sides."""
    key = _key(groups, plan)
    if key is None:
        return {}
    held = _held(ledger, key)
    small, large = groups.pairs()[0]
    data = Risk(small.model(task), task.loss, task.train).subset(plan.samples, plan.seed).data
    for kind in KINDS:
        if kind not in held:
            held[kind] = path(
                small.model(task).to(plan.device), large.model(task).to(plan.device), loss=task.loss, train=data,
                test=task.test, metrics=task.metrics, kind=kind, points=POINTS, start=small.state(0),
            )  # fmt: skip
            ledger.write(_file(kind), key | {"path": held[kind].to_json()})
    return held


def joining_passes(groups: Groups, task: Task, plan: Plan, ledger: Ledger) -> float:
    """What is still to be spent, in passes forward and backward over the subset."""
    key = _key(groups, plan)
    if key is None:
        return 0.0
    part = min(plan.samples, data_size(task.train))
    with torch.random.fork_rng(devices=[]):
        twice = 2 if has_batch_norm(task.model()) else 1
    return sum(POINTS * (twice + data_size(task.test) / part) / 3 for kind in KINDS if kind not in _held(ledger, key))


def _key(groups: Groups, plan: Plan) -> dict[str, str | int] | None:
    """Which pair, on which samples."""
    pairs = groups.pairs()
    if plan.quick or not pairs:
        return None
    small, large = (run.record for run in pairs[0])
    return {
        "small": small.name, "large": large.name, "small_digest": small.digest, "large_digest": large.digest,
        "samples": plan.samples, "seed": plan.seed,
    }  # fmt: skip


def read_paths(ledger: Ledger) -> dict[str, Path]:
    """Whatever paths the folder holds, by kind."""
    return _held(ledger, {})


def _held(ledger: Ledger, key: dict[str, str | int]) -> dict[str, Path]:
    """Those of this pair, under whatever names its folders had."""
    files = {kind: ledger.folder.read(_file(kind)) if ledger.folder else None for kind in KINDS}
    return {
        kind: Path.from_json(held["path"])
        for kind, held in files.items()
        if held and all(held[name] == value for name, value in key.items() if name not in ("small", "large"))
    }


def _file(kind: str) -> str:
    return f"{kind}.json"
