"""`train.fit` against a hand-written plain PyTorch loop and against Lightning's Trainer: seconds for the same training.

The work: F1 (five hidden layers of 512, batch norm) on Fashion-MNIST, SGD with Nesterov momentum 0.9, weight decay 1e-4 on
all parameters, lr 0.1 throughout, float32, 2 threads, the same number of epochs; the test set evaluated, a checkpoint of
model and optimiser written at the end of every epoch, and the loss logged, as each side's user has it:

* plain: DataLoader over a TensorDataset, `optimizer.step()` of torch's default SGD, the running loss as a row of CSV every
  50 steps, `torch.save`.
* lightning: Trainer with the same data loaders and optimiser, CSVLogger every 50 steps, ModelCheckpoint; no bar.
* fit: with a run folder and its defaults, but plain batch norm (`ghost_batch_size=None`). Beyond what the others do it
  writes the checkpoint of the start, flushes checkpoints to the disk with checksums, counts training accuracy at every
  step, logs norms and distances, digests data and weights, and evaluates on train and test at the end. All of it counts.
* fit, ghosts of 32: the same with ghost batch norm.
* fit, bf16: the same with `precision="bf16"`, against the float32 loop; only on a CPU with AVX512-BF16 or AMX.

The time is that of the training call, from data in memory to trained model: not imports, not reading the data from disk.
A steady epoch is what one epoch after the first takes, with its evaluation, logging and checkpoint; the rest is
`seconds - epochs x steady epoch`: set-up, the slower first epoch, the last exact evaluation. Each contender has a process
of its own and runs once before, untimed; they alternate, and a round is a seed. A round waits for a quiet machine and is
run again where other processes kept more than 0.1 cores busy.

    .venv-bench/bin/python benchmarks/train_speed.py            # batches 256 and 2048, 3 epochs, 5 rounds; about 8 minutes
    .venv-bench/bin/python benchmarks/train_speed.py --epochs 10 --contenders plain lightning fit    # half an hour
    .venv-bench/bin/python benchmarks/train_speed.py --quick    # a smoke run on a part of the data; its ratios say little
    .venv-bench/bin/python benchmarks/train_speed.py --json     # a JSON row for each comparison, on stdout
"""

import argparse
import csv
import dataclasses
import gc
import json
import logging
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import lightning  # pyright: ignore[reportMissingImports]
import torch
from lightning.pytorch.callbacks import ModelCheckpoint  # pyright: ignore[reportMissingImports]
from lightning.pytorch.loggers import CSVLogger  # pyright: ignore[reportMissingImports]
from pairing import THREADS, Others, Ratio, alternate, cpu_flags, machine, speedup, tell
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from largebatch import tasks, train
from largebatch.core import Task
from largebatch.recipe import Recipe
from largebatch.results import RunFolder

LR, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 1e-4
LOG_EVERY = 50  # updates
EVALUATION_BATCH = 2048  # fit's own; no disadvantage to the peers
PEERS = ("plain", "lightning")
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True)
class Timing:
    """One run of one contender."""

    seconds: float
    epoch_ends: tuple[float, ...]  # on any clock: after each epoch's evaluation
    test_accuracy: float

    @property
    def steady_seconds(self) -> float:
        """Of one epoch after the first."""
        return (self.epoch_ends[-1] - self.epoch_ends[0]) / (len(self.epoch_ends) - 1)

    @property
    def rest_seconds(self) -> float:
        """All that is not a steady epoch."""
        return self.seconds - self.steady_seconds * len(self.epoch_ends)


@dataclass(frozen=True)
class Work:
    """What all contenders do."""

    batch_size: int
    epochs: int
    train_size: int = 60_000  # samples, the first ones

    @property
    def task(self) -> Task:
        """Fashion-MNIST and F1; in memory after the first call."""
        task = _task()
        inputs, targets = _tensors(task.train)
        return dataclasses.replace(task, train=(inputs[: self.train_size], targets[: self.train_size]))

    def model(self, seed: int) -> nn.Module:
        """With initial weights of its own for each seed."""
        torch.manual_seed(seed)
        return self.task.model()

    def loaders(self) -> tuple[DataLoader[Any], DataLoader[Any]]:
        """Training and test data, as users load them."""
        train_data, test_data = TensorDataset(*_tensors(self.task.train)), TensorDataset(*_tensors(self.task.test))
        return (
            DataLoader(train_data, batch_size=self.batch_size, shuffle=True),
            DataLoader(test_data, batch_size=EVALUATION_BATCH),
        )


@cache
def _task() -> Task:
    return tasks.get("fashion-mnist/f1")


def plain_loop(work: Work, seed: int, folder: Path) -> Timing:
    """What people write by hand."""
    begun = time.perf_counter()
    model = work.model(seed)
    optimizer = _plain_sgd(model)
    train_loader, test_loader = work.loaders()
    ends: list[float] = []
    accuracy = 0.0
    step = 0
    with (folder / "log.csv").open("w") as file:
        log = csv.writer(file)
        for epoch in range(work.epochs):
            model.train()
            running = 0.0
            for inputs, targets in train_loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(inputs), targets)
                loss.backward()
                optimizer.step()
                running += loss.item()
                step += 1
                if step % LOG_EVERY == 0:
                    log.writerow([epoch, step, running / LOG_EVERY])
                    file.flush()
                    running = 0.0
            test_loss, accuracy = _plain_evaluation(model, test_loader)
            log.writerow([epoch, step, test_loss, accuracy])
            ends.append(time.perf_counter())
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / f"{epoch}.pt")
    return Timing(time.perf_counter() - begun, tuple(ends), accuracy)


@torch.no_grad()
def _plain_evaluation(model: nn.Module, loader: DataLoader[Any]) -> tuple[float, float]:
    model.eval()
    loss = correct = seen = 0.0
    for inputs, targets in loader:
        outputs = model(inputs)
        loss += F.cross_entropy(outputs, targets, reduction="sum").item()
        correct += (outputs.argmax(1) == targets).sum().item()
        seen += len(inputs)
    return loss / seen, correct / seen


class LightningF1(lightning.LightningModule):
    """The same model, loss and optimiser for Lightning's Trainer."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.epoch_ends: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The mean loss of a batch."""
        inputs, targets = batch
        loss = F.cross_entropy(self.model(inputs), targets)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and accuracy; Lightning weights them by the samples of each batch."""
        inputs, targets = batch
        outputs = self.model(inputs)
        self.log("test_loss", F.cross_entropy(outputs, targets))
        self.log("test_accuracy", (outputs.argmax(1) == targets).float().mean())

    def on_validation_epoch_end(self) -> None:
        """Note the time; the checkpoint comes after, as in the other loops."""
        self.epoch_ends.append(time.perf_counter())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As in the plain loop."""
        return _plain_sgd(self.model)


def lightning_trainer(work: Work, seed: int, folder: Path) -> Timing:
    """Lightning's Trainer with what the plain loop has."""
    begun = time.perf_counter()
    module = LightningF1(work.model(seed))
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=work.epochs,
        logger=CSVLogger(folder),
        log_every_n_steps=LOG_EVERY,
        callbacks=[ModelCheckpoint(dirpath=folder / "checkpoints", save_top_k=-1)],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    train_loader, test_loader = work.loaders()
    trainer.fit(module, train_loader, test_loader)
    seconds = time.perf_counter() - begun
    return Timing(seconds, tuple(module.epoch_ends), float(trainer.callback_metrics["test_accuracy"]))


def our_fit(work: Work, seed: int, folder: Path, *, ghosts: int | None = None, precision: str = "fp32") -> Timing:
    """`train.fit` with a run folder."""
    recipe = Recipe(work.batch_size, LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, schedule="constant").replace(  # pyright: ignore[reportArgumentType]
        decay_norm_and_bias=True, duration=f"{work.epochs}ep", ghost_batch_size=ghosts, precision=precision
    )
    task = work.task
    begun = time.perf_counter()
    run = train.fit(task, recipe, seed=seed, out=folder / "run", progress=False)
    seconds = time.perf_counter() - begun
    if run.status != "finished":
        raise RuntimeError(f"fit: expected a finished run, got {run.status}: {run.reason}")
    ends = [row["seconds"] for row in RunFolder(folder / "run").log() if row["kind"] == "epoch"]
    return Timing(seconds, tuple(ends), run.metrics["test_accuracy"])


def _plain_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), LR, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY)


def _tensors(data: Any) -> tuple[Tensor, Tensor]:
    assert isinstance(data, tuple)  # Fashion-MNIST is resident
    return data


Contender = Callable[[Work, int, Path], Timing]


def contenders() -> dict[str, Contender]:
    """By name; the peers first."""
    chosen: dict[str, Contender] = {
        "plain": plain_loop,
        "lightning": lightning_trainer,
        "fit": our_fit,
        "fit, ghosts of 32": partial(our_fit, ghosts=32),
    }
    if BF16_FLAGS & cpu_flags():
        chosen["fit, bf16"] = partial(our_fit, precision="bf16")
    return chosen


def measure(name: str, work: Work, seed: int) -> tuple[Timing, float]:
    """One run of a contender, in a folder of its own that is deleted afterwards, untimed; and the others' cores."""
    gc.collect()
    others = Others()
    with tempfile.TemporaryDirectory() as folder:
        timing = contenders()[name](work, seed, Path(folder))
    return timing, others.cores


def compare(work: Work, rounds: int, names: list[str]) -> dict[str, list[Timing]]:
    """The contenders of these names on one batch size, each in a process of its own: none inherits another's heap."""
    with ExitStack() as stack:
        runs: dict[str, Callable[[int], tuple[Timing, float]]] = {}
        for name in names:
            process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_prepare)
            stack.enter_context(process)
            process.submit(measure, name, Work(work.batch_size, 2, 4 * work.batch_size), 0).result()
            runs[name] = partial(_in_process, process, name, work)
        return alternate(runs, rounds)


def _in_process(process: Executor, name: str, work: Work, seed: int) -> tuple[Timing, float]:
    return process.submit(measure, name, work, seed).result()


def _prepare() -> None:
    torch.set_num_threads(THREADS)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")  # more loader workers, fewer log steps: the work is given


def comparisons(found: dict[str, list[Timing]], work: Work, about: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each of ours against each peer."""
    return [
        {
            "benchmark": "train_speed", "batch_size": work.batch_size, "epochs": work.epochs,
            "contender": ours, "peer": peer,
            **_ratio(found, peer, ours, "seconds").row(), **_ratio(found, peer, ours, "steady_seconds").row("steady_"),
            "seconds": median(t.seconds for t in found[ours]), "peer_seconds": median(t.seconds for t in found[peer]),
            "test_accuracy": mean(t.test_accuracy for t in found[ours]),
            "peer_test_accuracy": mean(t.test_accuracy for t in found[peer]),
            "seeds": list(range(len(found[ours]))), **about,
        }
        for ours in found if ours not in PEERS for peer in PEERS if peer in found
    ]  # fmt: skip


def _ratio(found: dict[str, list[Timing]], peer: str, ours: str, clock: str) -> Ratio:
    return speedup([getattr(t, clock) for t in found[peer]], [getattr(t, clock) for t in found[ours]])


def show(found: dict[str, list[Timing]], work: Work) -> None:
    """Two tables: the medians of each contender, and the ratios."""
    print(
        f"\nbatch {work.batch_size}, {work.epochs} epochs of {work.train_size} samples, median of {len(found['plain'])}"
    )
    print(f"{'':18} {'seconds':>8} {'samples/s':>10} {'steady epoch':>13} {'rest':>7} {'accuracy':>9}")
    for name, timings in found.items():
        seconds, steady, rest = (
            median(getattr(t, clock) for t in timings) for clock in ("seconds", "steady_seconds", "rest_seconds")
        )
        rate = work.epochs * work.train_size / seconds
        accuracy = mean(t.test_accuracy for t in timings)
        print(f"{name:18} {seconds:8.2f} {rate:10.0f} {steady:11.2f} s {rest:5.2f} s {accuracy:9.4f}")
    for ours in (name for name in found if name not in PEERS):
        for peer in (name for name in PEERS if name in found):
            whole, steady = _ratio(found, peer, ours, "seconds"), _ratio(found, peer, ours, "steady_seconds")
            print(f"{ours} is {whole} as fast as {peer}; steady epochs {steady}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[256, 2048])
    parser.add_argument("--epochs", type=int, default=3, help="at least 2, for a steady one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", nargs="+", choices=list(contenders()), default=list(contenders()))
    parser.add_argument("--quick", action="store_true", help="8,192 samples, 2 epochs, 2 rounds")
    parser.add_argument("--json", action="store_true", help="JSON rows on stdout instead of tables")
    return parser.parse_args()


def main() -> None:
    """Run, and print what was found."""
    arguments = _arguments()
    torch.set_num_threads(THREADS)
    about = machine("lightning")
    tell(json.dumps(about))
    for batch_size in arguments.batch:
        work = Work(batch_size, max(2, arguments.epochs))
        work = Work(batch_size, 2, 8192) if arguments.quick else work
        found = compare(work, 2 if arguments.quick else arguments.rounds, arguments.contenders)
        if arguments.json:
            print("\n".join(json.dumps(row) for row in comparisons(found, work, about)))
        else:
            show(found, work)
    if not BF16_FLAGS & cpu_flags():
        tell(f"bf16: not measured: this CPU ({about['cpu']}) has none of {', '.join(sorted(BF16_FLAGS))}")


if __name__ == "__main__":
    main()
