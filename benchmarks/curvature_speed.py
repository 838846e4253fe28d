"""Curvature, sharpness and landscapes: what each costs here and with the best peers, on the same networks and samples.

The work is in `curvature_work.py`, the calls in `curvature_ours.py` and `curvature_peers.py`. A cost is given in U, one
forward and backward pass over the samples as plain PyTorch makes it, or in F, one forward pass; both are measured anew
immediately before and after each run, so that the machine's drift cancels. Jobs:

* top1: the largest eigenvalue of the Hessian to 1e-3. top5: the five largest.
* warm: the largest eigenvalue one update of SGD later, when that of before is known.
* trace: to 1 %, which here means exactly.
* density: one probe, 40 Lanczos steps. Its error is that of its largest node; a second node beside it is a ghost.
* line: the loss at 25 points between two networks. Its error is the largest at any of the points.
* plane: 11 x 11 points in two random filter-normalised directions. Its error is that in the middle, at the network itself.
* sharpness: Keskar's Metric 2.1 in the full space, epsilon = 1e-3. Its error is how far it stays below the highest found.

Errors are relative, against float64, and the largest of all rounds. Contenders alternate; a ratio is the peer's cost / ours,
round by round, and its median over the rounds is given. A round waits for a quiet machine and is run again where other
processes kept more than 0.1 cores busy; `--busy` counts processor seconds of one thread instead, which others disturb
less. A peer that takes over 20 s runs in the first round only. The target is that of our own specification. The bound counts
operations alone: 2 U for each product that we made; for the trace a forward and 10 backward passes (ours leaves out the
weights' gradients and may go below).

    .venv-bench/bin/python benchmarks/curvature_speed.py                      # everything, 3 rounds; about half an hour
    .venv-bench/bin/python benchmarks/curvature_speed.py --jobs top1 trace    # some of it
    .venv-bench/bin/python benchmarks/curvature_speed.py --quick              # a smoke run; its figures say nothing
    .venv-bench/bin/python benchmarks/curvature_speed.py --busy               # beside other work
    .venv-bench/bin/python benchmarks/curvature_speed.py --json               # a JSON row for each contender, on stdout
"""

import argparse
import gc
import json
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import curvature_ours as ours
import curvature_peers as peers
import numpy as np
import torch
from curvature_peers import PLANE_SIDE, Contender
from curvature_work import LINE_POINTS, NETS, Work, prepare
from pairing import THREADS, Others, Ratio, alternate, machine, speedup, tell

OURS = "largebatch"
COSTLY_SECONDS = 20.0
SAMPLES, UPDATES, ROUNDS = 2048, 200, 3
STEPS = 40
PACKAGES = ("scipy", "pyhessian", "hessian-eigenthings", "curvlinops-for-pytorch", "backpack-for-pytorch", "nngeometry",
            "loss-landscapes")  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """One run of one contender."""

    seconds: float
    backward_seconds: float  # U
    forward_seconds: float  # F
    answer: Any
    products: int | None  # with the Hessian, where the contender tells

    def cost(self, unit: str) -> float:
        """In U or F."""
        return self.seconds / (self.backward_seconds if unit == "U" else self.forward_seconds)


@dataclass(frozen=True)
class Job:
    """One thing to be found.

    Args:
        title: what.
        target: the most that we may need, for each network.
        bound: what the method cannot go below; None: 2 for each product that we made.
        contenders: by name, ours first.
        error: of an answer, relative; the third argument is all answers of the run.
        unit: of target and bound.
    """

    title: str
    target: dict[str, float]
    bound: float | None
    contenders: dict[str, Contender]
    error: Callable[[Work, Any, list[Any]], float] = field(repr=False)
    unit: str = "U"


def jobs() -> dict[str, Job]:
    """By name."""
    pyhessian = partial(peers.pyhessian_eigenvalues, k=1)
    default, exact = dict.fromkeys(NETS, 1e-3), dict.fromkeys(NETS, 1e-4)
    return {
        "top1": Job(
            "top eigenvalue to 1e-3", {"F1": 15, "conv": 22}, None,
            {
                OURS: partial(ours.eigenvalues, k=1),
                "PyHessian, default": partial(pyhessian, tolerance=default),
                "PyHessian, tol by hand": partial(pyhessian, tolerance=exact),
                "eigenthings, told 10 steps": partial(peers.eigenthings_lanczos, k=1, steps=10),
                "curvlinops + eigsh": partial(peers.curvlinops_eigsh, k=1),
            },
            lambda work, answer, _: _relative(answer, work.eigenvalues[:1]),
        ),
        "warm": Job(
            "the same one update later", {"F1": 6, "conv": 9}, None,
            {OURS: ours.warm_eigenvalue, "PyHessian, cold": partial(pyhessian, tolerance=exact, stepped=True)},
            lambda work, answer, _: _relative(answer, np.array([work.stepped_eigenvalue])),
        ),
        "top5": Job(
            "top 5 to 1e-3", {"F1": 35, "conv": 43}, None,
            {
                OURS: partial(ours.eigenvalues, k=5),
                "eigenthings, told 20 steps": partial(peers.eigenthings_lanczos, k=5, steps=20),
                "curvlinops + eigsh": partial(peers.curvlinops_eigsh, k=5),
                "PyHessian, tol by hand": partial(
                    peers.pyhessian_eigenvalues, k=5, tolerance={"F1": 1e-5, "conv": 1e-4}
                ),
            },
            lambda work, answer, _: _relative(answer, work.eigenvalues),
        ),
        "trace": Job(
            "trace to 1 %", {"F1": 8, "conv": 23}, 23 / 3,  # 10 classes: 10 backward passes and a forward pass
            {
                OURS: ours.trace, "BackPACK": peers.backpack_trace, "nngeometry": peers.nngeometry_trace,
                "PyHessian, default": peers.pyhessian_trace,
            },
            lambda work, answer, _: abs(answer / work.trace - 1.0),
        ),
        "density": Job(
            f"density, {STEPS} steps", {"F1": 100, "conv": 145}, 2.0 * STEPS,
            {
                OURS: partial(ours.density, steps=STEPS),
                "eigenthings": partial(peers.eigenthings_density, steps=STEPS),
                "PyHessian, mended": partial(peers.pyhessian_density, steps=STEPS),
                "curvlinops": partial(peers.curvlinops_density, steps=STEPS),
            },
            lambda work, answer, _: _largest_node(work, answer),
        ),
        "line": Job(
            f"line, {LINE_POINTS} points", dict.fromkeys(NETS, 1.05 * LINE_POINTS), LINE_POINTS,
            {OURS: ours.line, "loss-landscapes": peers.landscapes_line},
            lambda work, answer, _: _relative(answer, work.line), unit="F",
        ),
        "plane": Job(
            f"plane, {PLANE_SIDE} x {PLANE_SIDE}", dict.fromkeys(NETS, 1.05 * PLANE_SIDE**2), PLANE_SIDE**2,
            {OURS: ours.plane, "loss-landscapes": peers.landscapes_plane},
            lambda work, answer, _: abs(answer / work.loss - 1.0), unit="F",
        ),
        "sharpness": Job(
            "Metric 2.1, full space", {"F1": 11, "conv": 11}, 11.0,
            {
                OURS: partial(ours.sharpness, kind="metric_2_1_ascent"),
                "scipy L-BFGS-B": peers.scipy_metric_2_1,
                f"{OURS}, as in the paper": partial(ours.sharpness, kind="metric_2_1"),
            },
            lambda _, answer, answers: 1.0 - answer / max(answers),
        ),
    }  # fmt: skip


def _relative(answer: Any, reference: np.ndarray) -> float:
    return float(np.max(np.abs(np.asarray(answer) / reference - 1.0)))


def _largest_node(work: Work, nodes: np.ndarray | None) -> float:
    return np.nan if nodes is None else _relative(np.max(nodes), work.eigenvalues[:1])


def measured(
    name: str, contender: Contender, work: Work, clock: Callable[[], float]
) -> Callable[[int], tuple[Timing, float]]:
    """The contender as `alternate` calls it: with the round, for a timing and the cores that others kept busy."""
    found: list[Timing] = []

    def measure(number: int) -> tuple[Timing, float]:
        if number > 0 and not name.startswith(OURS) and found[-1].seconds > COSTLY_SECONDS:
            return found[-1], 0.0
        gc.collect()
        run = contender(work, number)
        others = Others()
        both, forward = work.units(clock)
        begun = clock()
        answer = run()
        seconds = clock() - begun
        cores = others.cores if clock is time.perf_counter else 0.0
        more_both, more_forward = work.units(clock)
        values, products = answer if isinstance(answer, ours.Eigenvalues) else (answer, None)
        found.append(Timing(seconds, median(both + more_both), median(forward + more_forward), values, products))
        tell(f"  {name}: {seconds:.1f} s = {found[-1].cost('U'):.1f} U")
        return found[-1], cores

    return measure


def compare(job: Job, work: Work, rounds: int, is_busy: bool) -> list[dict[str, Any]]:
    """A row for each contender, ours first."""
    clock = time.process_time if is_busy else time.perf_counter
    runs = {name: measured(name, run, work, clock) for name, run in job.contenders.items()}
    with patch("pairing.wait_for_quiet") if is_busy else nullcontext():
        found = alternate(runs, rounds)
    answers = [timing.answer for timings in found.values() for timing in timings]
    our_costs = [timing.cost(job.unit) for timing in found[OURS]]
    bound = 2.0 * median(timing.products or 0 for timing in found[OURS]) if job.bound is None else job.bound
    rows: list[dict[str, Any]] = []
    for name, timings in found.items():
        costs = [timing.cost(job.unit) for timing in timings]
        row = {
            "benchmark": "curvature_speed", "network": work.name, "job": job.title, "contender": name, "unit": job.unit,
            "cost": median(costs), "cost_low": min(costs), "cost_high": max(costs),
            "seconds": median(timing.seconds for timing in timings),
            "unit_seconds": median(t.seconds / t.cost(job.unit) for t in timings),
            "error": max(job.error(work, timing.answer, answers) for timing in timings),
            "target": job.target[work.name], "bound": bound,
        }  # fmt: skip
        rows.append(row | ({} if name == OURS else speedup(costs, our_costs).row()))
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """A table of one job."""
    network, title, unit, seconds, target, bound = (
        rows[0][name] for name in ("network", "job", "unit", "unit_seconds", "target", "bound")
    )
    print(f"\n{network}, {title}: target {target:.4g} {unit}; 1 {unit} is {seconds:.3f} s")
    for row in rows:
        cost = f"{row['cost']:.1f} ({row['cost_low']:.1f}-{row['cost_high']:.1f}) {unit}"
        if row["contender"] == OURS:
            verdict = "met" if row["cost"] <= target else "MISSED"
            remark = f"target {verdict}; {row['cost'] / bound:.2f} x the bound of {bound:.4g} {unit}"
        else:
            remark = f"theirs / ours {Ratio(row['ratio'], row['low'], row['high'])}"
        print(f"  {row['contender']:28} {cost:26} error {row['error']:7.1e}  {remark}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--jobs", nargs="+", choices=list(jobs()), default=list(jobs()))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="256 samples, 20 updates, 1 round")
    parser.add_argument(
        "--busy", action="store_true", help="processor seconds of one thread, without waiting for quiet"
    )
    parser.add_argument("--json", action="store_true", help="JSON rows on stdout instead of tables")
    return parser.parse_args()


def main() -> None:
    """Run, and print what was found."""
    arguments = _arguments()
    torch.set_num_threads(1 if arguments.busy else THREADS)
    warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")  # PyHessian
    warnings.filterwarnings("ignore", message="Full backward hook is firing")  # BackPACK
    samples, updates, rounds = (256, 20, 1) if arguments.quick else (SAMPLES, UPDATES, arguments.rounds)
    about = machine(*PACKAGES)
    tell(json.dumps(about))
    for network in arguments.networks:
        work = prepare(network, samples, updates)
        for name in arguments.jobs:
            tell(f"{network}, {name}")
            rows = compare(jobs()[name], work, rounds, arguments.busy)
            if arguments.json:
                about |= {"samples": samples, "rounds": rounds, "is_busy": arguments.busy}
                print("\n".join(json.dumps(row | about) for row in rows), flush=True)
            else:
                show(rows)


if __name__ == "__main__":
    main()
