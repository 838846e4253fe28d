"""What the benchmarks share: runs in alternating order, ratios of paired runs, and what they were run on.

A machine drifts (other processes, frequency, caches), so contenders are compared within a round, where they ran shortly
after one another: a ratio is taken for each round, and its median over the rounds is the result, with the range beside it.
Where others compute on the same cores no ratio means anything, so a round waits for them, and is run again if they came.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch

T = TypeVar("T")
THREADS = 2
QUIET_CORES = 0.1  # two threads that wait for one another at each layer lose far more than the core's share


@dataclass(frozen=True)
class Ratio:
    """How many times faster we are than a peer, over paired rounds."""

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f}x ({self.low:.3f}-{self.high:.3f})"

    def row(self, prefix: str = "") -> dict[str, float]:
        """For JSON."""
        return {f"{prefix}{name}": value for name, value in vars(self).items()}


def speedup(peer_seconds: Sequence[float], our_seconds: Sequence[float]) -> Ratio:
    """Peer's time / our time, round by round."""
    ratios = [peer / ours for peer, ours in zip(peer_seconds, our_seconds, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))


def alternate(contenders: Mapping[str, Callable[[int], tuple[T, float]]], rounds: int) -> dict[str, list[T]]:
    """Call each contender with the number of the round, in each round; every other round in reverse order.

    Args:
        contenders: each returns what it found and the cores that others kept busy meanwhile. A round with more than
            `QUIET_CORES` of these is dropped, whatever it found, and run again, as often as there are rounds.
    """
    kept: list[dict[str, T]] = []
    dropped = 0
    while len(kept) < rounds:
        wait_for_quiet()
        names = list(contenders) if len(kept) % 2 == 0 else list(contenders)[::-1]
        found = {name: contenders[name](len(kept)) for name in names}
        others = max(cores for _, cores in found.values())
        if others > QUIET_CORES and dropped < rounds:
            dropped += 1
        else:
            kept.append({name: value for name, (value, _) in found.items()})
        tell(f"round {len(kept)}/{rounds}, {dropped} dropped; others kept {others:.2f} cores busy")
    return {name: [found[name] for found in kept] for name in contenders}


def wait_for_quiet(patience_seconds: float = 600.0) -> None:
    """Sleep until others have left the machine alone for two seconds; not forever."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < patience_seconds:
        others = Others()
        time.sleep(2.0)
        if others.cores < QUIET_CORES:
            return


class Others:
    """The cores that other processes kept busy, on average, since this was made: what a measurement was disturbed by."""

    def __init__(self) -> None:
        self._before = self._read()

    @property
    def cores(self) -> float:
        """0.0 where nobody else computed, and where the system does not tell."""
        seconds, busy = (now - then for now, then in zip(self._read(), self._before, strict=True))
        return max(0.0, busy / max(seconds, 1e-9))

    @staticmethod
    def _read() -> tuple[float, float]:
        """Wall seconds, and the CPU seconds of the machine less those of this process."""
        stat, own = Path("/proc/stat"), os.times()
        if not stat.exists():
            return time.perf_counter(), 0.0
        user, nice, system, _, _, irq, softirq, *_ = map(int, stat.read_text().split("\n", 1)[0].split()[1:])
        busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy - own.user - own.system


def machine(*packages: str) -> dict[str, Any]:
    """What the figures depend on besides the code, for the record."""
    return {
        "cpu": _cpu_field("model name") or platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),  # of the last minute: 1 or more before a run means that others compute
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "largebatch", *packages)},
    }


def cpu_flags() -> set[str]:
    """Instruction sets as Linux names them; empty elsewhere."""
    return set(_cpu_field("flags").split())


def tell(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"{text}\n")


def _cpu_field(name: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    values = (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name)
    return next(values, "")
