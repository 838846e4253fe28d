"""Forty runs on digits, 8 recipes × 5 seeds: a study, against a plain PyTorch loop that trains one after the other.

Both in one go on the same cores, whole runs from start to table: the plain loop has the machine's threads and resident
tensors, evaluates once an epoch, and starts no process; the study starts its workers, writes run folders, logs and judges.

    python benchmarks/study_throughput.py [--rounds 3] [--epochs 20]
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

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


def plain(recipe: Recipe, seed: int) -> float:
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
    return sum(row.metrics["test_accuracy"] for row in found.runs) / len(found.runs)


def main() -> None:
    """Alternate, and print the ratio of each round."""
    parser = argparse.ArgumentParser(description="40 digits runs: a study against a plain loop.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    ratios: list[float] = []
    for number in range(arguments.rounds):
        begun = time.perf_counter()
        accuracies = [plain(recipe, seed) for recipe in recipes(arguments.epochs).values() for seed in SEEDS]
        between = time.perf_counter()
        mean = ours(arguments.epochs, cores)
        ended = time.perf_counter()
        ratios.append((between - begun) / (ended - between))
        print(
            f"round {number}: plain {between - begun:.1f} s (test accuracy {sum(accuracies) / len(accuracies):.4f}), study "
            f"{ended - between:.1f} s ({mean:.4f}), ratio {ratios[-1]:.2f}",
            flush=True,
        )
    print(
        f"median {median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) on {cores} cores, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
