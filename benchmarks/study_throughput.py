"""Forty runs on digits, 8 recipes × 5 seeds: a study, against a plain PyTorch loop that trains one after the other.

Whole commands on the same cores, from the start of Python to its end. The plain loop has resident tensors, evaluates once
an epoch, starts no process and writes nothing; it is timed with a thread for each core and with one thread, since networks
this small gain nothing from threads, and the ratio that counts is to the faster of the two. The study starts its workers,
writes run folders, logs and judges.

    python benchmarks/study_throughput.py [--rounds 3] [--threads 1 2]
    python benchmarks/study_throughput.py --plain 1                        # one plain loop, with so many threads
    largebatch study benchmarks/study_throughput.py:forty --out studies/forty --no-report
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from statistics import fmean, median

import torch
from torch.nn.functional import cross_entropy

from largebatch import tasks
from largebatch.comparison import Cell, Measures, Study, Subject
from largebatch.optimizers import build_optimizer, build_scheduler
from largebatch.recipe import Recipe

TASK = "digits/mlp"
SEEDS = (0, 1, 2, 3, 4)
EPOCHS = 20
NOTHING = Measures(look_epochs=(), look_shares=(1.0,), curvature_epochs=(), curvature_shares=(), look_samples=1)


def recipes() -> dict[str, Recipe]:
    """Eight, plain batch norm throughout."""
    sgd = Recipe(16, lr=0.05, duration=f"{EPOCHS}ep", ghost_batch_size=None)
    adam = Recipe(16, lr=1e-3, optimizer="adam", weight_decay=0.0, duration=f"{EPOCHS}ep", ghost_batch_size=None)
    found = {f"sgd {batch}": sgd.at(batch) for batch in (16, 32, 64, 128, 256, 512)}
    return found | {f"adam {batch}": adam.at(batch) for batch in (16, 256)}


def forty() -> Study:
    """The study."""
    cells = tuple(Cell(name, recipe) for name, recipe in recipes().items())
    return Study("forty", Subject(TASK), cells, SEEDS, measures=NOTHING)


def plain(threads: int) -> float:
    """All runs, one after the other; returns their mean test accuracy."""
    torch.set_num_threads(threads)
    return fmean(plain_run(recipe, seed) for recipe in recipes().values() for seed in SEEDS)


def plain_run(recipe: Recipe, seed: int) -> float:
    """One run as anybody would write it; returns its test accuracy."""
    task = tasks.get(TASK)
    assert isinstance(task.train, tuple)
    assert isinstance(task.test, tuple)
    torch.manual_seed(seed)
    model = task.model()
    optimizer = build_optimizer(model, recipe)
    assert isinstance(optimizer, torch.optim.SGD | torch.optim.Adam)
    scheduler = build_scheduler(optimizer, recipe, train_size=len(task.train[1]))
    accuracy = 0.0
    for _ in range(EPOCHS):
        model.train()
        for chosen in torch.randperm(len(task.train[1])).split(recipe.global_batch_size):
            optimizer.zero_grad()
            cross_entropy(model(task.train[0][chosen]), task.train[1][chosen]).backward()
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.no_grad():
            accuracy = float((model(task.test[0]).argmax(1) == task.test[1]).float().mean())
    return accuracy


def plain_command(threads: int) -> float:
    """A Python of its own; returns the mean test accuracy."""
    return float(_output([sys.executable, __file__, "--plain", str(threads)]))


def study_command(workers: int) -> float:
    """A Python of its own; returns the mean test accuracy over all runs."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["study", f"{__file__}:forty", "--out", folder, "--workers", str(workers), "--no-report", "--json"]
        found = json.loads(_output([sys.executable, "-m", "largebatch", *words]))
    return fmean(row["metrics"]["test_accuracy"] for row in found["runs"])


def _output(words: list[str]) -> str:
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def timed(work: Callable[[], float]) -> tuple[float, float]:
    """(seconds, mean test accuracy)."""
    begun = time.perf_counter()
    accuracy = work()
    return time.perf_counter() - begun, accuracy


def main() -> None:
    """Each round in another order; prints the ratios of every round, then their medians and ranges."""
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description="40 digits runs: a study against a plain loop.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, cores], help="of the plain loop, each a contender"
    )
    parser.add_argument("--plain", type=int, metavar="THREADS", help="run the plain loop once, print its accuracy")
    arguments = parser.parse_args()
    if arguments.plain:
        print(plain(arguments.plain))
        return
    contenders = {f"plain, {n} thread(s)": partial(plain_command, n) for n in arguments.threads}
    contenders["study"] = partial(study_command, cores)
    ratios: dict[str, list[float]] = {name: [] for name in contenders if name != "study"}
    for number in range(arguments.rounds):
        turn = number % len(contenders)
        order = [*contenders][turn:] + [*contenders][:turn]
        found = {name: timed(contenders[name]) for name in order}
        for name, rounds in ratios.items():
            rounds.append(found[name][0] / found["study"][0])
        told = "; ".join(
            f"{name} {found[name][0]:.1f} s (accuracy {100 * found[name][1]:.2f} %)" for name in contenders
        )
        print(f"round {number}: {told}", flush=True)
    for name, rounds in ratios.items():
        print(f"study against {name}: {median(rounds):.2f} × as fast ({min(rounds):.2f}–{max(rounds):.2f})")
    print(f"{len(recipes()) * len(SEEDS)} runs of {EPOCHS} epochs, {cores} cores, torch {torch.__version__}")


if __name__ == "__main__":
    main()
