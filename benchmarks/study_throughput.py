"""Forty runs on digits, 8 recipes × 5 seeds: a study, against a plain PyTorch loop that trains one after the other.

All in one go on the same cores, whole runs from start to table. The plain loop has resident tensors, evaluates once an
epoch, starts no process and writes nothing; it is timed with a thread for each core and with one thread, since networks
this small gain nothing from threads, and the ratio that counts is to the faster of the two. The study starts its workers,
writes run folders, logs and judges.

    python benchmarks/study_throughput.py [--rounds 3] [--epochs 20] [--threads 1 2]
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, median

import torch
from torch.nn.functional import cross_entropy

from largebatch import tasks, train
from largebatch.recipe import Recipe
from largebatch.study import Cell, Measures, Study, Subject, run_study

TASK = "digits/mlp"
SEEDS = (0, 1, 2, 3, 4)
NOTHING = Measures(look_epochs=(), look_shares=(1.0,), curvature_epochs=(), curvature_shares=(), look_samples=1)


def recipes(epochs: int) -> dict[str, Recipe]:
    """Eight, plain batch norm throughout."""
    sgd = Recipe(16, lr=0.05, duration=f"{epochs}ep", ghost_batch_size=None)
    adam = Recipe(16, lr=1e-3, optimizer="adam", weight_decay=0.0, duration=f"{epochs}ep", ghost_batch_size=None)
    found = {f"sgd {batch}": sgd.at(batch) for batch in (16, 32, 64, 128, 256, 512)}
    return found | {f"adam {batch}": adam.at(batch) for batch in (16, 256)}


def plain(epochs: int, threads: int) -> float:
    """All runs, one after the other; returns their mean test accuracy."""
    torch.set_num_threads(threads)
    return fmean(plain_run(recipe, seed) for recipe in recipes(epochs).values() for seed in SEEDS)


def plain_run(recipe: Recipe, seed: int) -> float:
    """One run as anybody would write it; returns its test accuracy."""
    task = tasks.get(TASK)
    assert isinstance(task.train, tuple)
    assert isinstance(task.test, tuple)
    torch.manual_seed(seed)
    model = task.model()
    optimizer = train.build_optimizer(model, recipe)
    assert isinstance(optimizer, torch.optim.SGD | torch.optim.Adam)
    scheduler = train.build_scheduler(optimizer, recipe, train_size=len(task.train[1]))
    accuracy = 0.0
    for _ in range(int(recipe.duration.value)):
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


def ours(epochs: int, workers: int) -> float:
    """The study; returns the mean test accuracy over all runs."""
    cells = tuple(Cell(name, recipe) for name, recipe in recipes(epochs).items())
    folder = Path(tempfile.mkdtemp())
    try:
        found = run_study(
            Study("throughput", Subject(TASK), cells, SEEDS, measures=NOTHING), folder, workers=workers, progress=False
        )
    finally:
        shutil.rmtree(folder)
    return fmean(row.metrics["test_accuracy"] for row in found.runs)


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
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, cores], help="of the plain loop, each a contender"
    )
    arguments = parser.parse_args()
    contenders = {f"plain, {n} thread(s)": partial(plain, arguments.epochs, n) for n in arguments.threads}
    contenders["study"] = partial(ours, arguments.epochs, cores)
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
    print(f"{len(recipes(1)) * len(SEEDS)} runs of {arguments.epochs} epochs, {cores} cores, torch {torch.__version__}")


if __name__ == "__main__":
    main()
