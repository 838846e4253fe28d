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
`seconds - epochs x steady epoch`: set-up, the slower first epoch, the last exact evaluation. Contenders alternate; a
round is a seed; each runs once before, untimed.

    .venv-bench/bin/python benchmarks/train_speed.py            # batches 256 and 2048, 3 epochs, 5 rounds; about 8 minutes
    .venv-bench/bin/python benchmarks/train_speed.py --quick    # a smoke run on a part of the data; its ratios say little
    .venv-bench/bin/python benchmarks/train_speed.py --json     # a JSON row for each comparison, on stdout
"""

import argparse
import csv
import dataclasses
import gc
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import lightning  # pyright: ignore[reportMissingImports]
import torch
from lightning.pytorch.callbacks import ModelCheckpoint  # pyright: ignore[reportMissingImports]
from lightning.pytorch.loggers import CSVLogger  # pyright: ignore[reportMissingImports]
from pairing import THREADS, alternate, cpu_flags, machine, speedup, tell
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

    task: Task
    batch_size: int
    epochs: int

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
    begun = time.perf_counter()
    run = train.fit(work.task, recipe, seed=seed, out=folder / "run", progress=False)
    seconds = time.perf_counter() - begun
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


def run_in_folder(contender: Contender, work: Work, seed: int) -> Timing:
    """One run in a folder of its own, deleted afterwards, untimed."""
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        return contender(work, seed, Path(folder))


def compare(work: Work, rounds: int) -> dict[str, list[Timing]]:
    """All contenders on one batch size."""
    warm_up = Work(_part(work.task, 4 * work.batch_size), work.batch_size, 2)
    for contender in contenders().values():
        run_in_folder(contender, warm_up, 0)
    runs = {name: partial(run_in_folder, contender, work) for name, contender in contenders().items()}
    return alternate(runs, rounds)


def comparisons(found: dict[str, list[Timing]], work: Work, about: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each of ours against each peer."""
    rows: list[dict[str, Any]] = []
    peers = ("plain", "lightning")
    for ours in (name for name in found if name not in peers):
        for peer in peers:
            whole, steady = (
                speedup([getattr(t, clock) for t in found[peer]], [getattr(t, clock) for t in found[ours]])
                for clock in ("seconds", "steady_seconds")
            )
            rows.append(
                {
                    "benchmark": "train_speed", "batch_size": work.batch_size, "epochs": work.epochs,
                    "contender": ours, "peer": peer, "ratio": whole.median, "low": whole.low, "high": whole.high,
                    "steady_ratio": steady.median, "steady_low": steady.low, "steady_high": steady.high,
                    "seconds": median(t.seconds for t in found[ours]),
                    "peer_seconds": median(t.seconds for t in found[peer]),
                    "seeds": list(range(len(found[ours]))), **about,
                }
            )  # fmt: skip
    return rows


def show(found: dict[str, list[Timing]], rows: list[dict[str, Any]], work: Work) -> None:
    """Two tables: the medians of each contender, and the ratios."""
    train_size = len(_tensors(work.task.train)[0])
    print(f"\nbatch {work.batch_size}, {work.epochs} epochs of {train_size} samples, median of {len(found['plain'])}")
    print(f"{'':18} {'seconds':>8} {'samples/s':>10} {'steady epoch':>13} {'rest':>7} {'test accuracy':>14}")
    for name, timings in found.items():
        seconds, steady, rest = (
            median(getattr(t, clock) for t in timings) for clock in ("seconds", "steady_seconds", "rest_seconds")
        )
        accuracy = mean(t.test_accuracy for t in timings)
        rate = work.epochs * train_size / seconds
        print(f"{name:18} {seconds:8.2f} {rate:10.0f} {steady:11.2f} s {rest:5.2f} s {accuracy:14.4f}")
    for row in rows:
        whole = f"{row['ratio']:.3f}x ({row['low']:.3f}-{row['high']:.3f})"
        steady = f"{row['steady_ratio']:.3f}x ({row['steady_low']:.3f}-{row['steady_high']:.3f})"
        print(f"{row['contender']} is {whole} as fast as {row['peer']}; steady epochs {steady}")


def _part(task: Task, samples: int) -> Task:
    (x, y), (test_x, test_y) = _tensors(task.train), _tensors(task.test)
    return dataclasses.replace(task, train=(x[:samples], y[:samples]), test=(test_x[:samples], test_y[:samples]))


def _quieten() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")  # more loader workers, fewer log steps: the work is given


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[256, 2048])
    parser.add_argument("--epochs", type=int, default=3, help="at least 2, for a steady one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="8,192 samples, 2 epochs, 2 rounds")
    parser.add_argument("--json", action="store_true", help="JSON rows on stdout instead of tables")
    return parser.parse_args()


def main() -> None:
    """Run, and print what was found."""
    arguments = _arguments()
    _quieten()
    torch.set_num_threads(THREADS)
    task = tasks.get("fashion-mnist/f1")
    epochs, rounds = (2, 2) if arguments.quick else (max(2, arguments.epochs), arguments.rounds)
    task = _part(task, 8192) if arguments.quick else task
    about = machine("lightning")
    tell(json.dumps(about))
    for batch_size in arguments.batch:
        work = Work(task, batch_size, epochs)
        found = compare(work, rounds)
        rows = comparisons(found, work, about)
        if arguments.json:
            print("\n".join(json.dumps(row) for row in rows))
        else:
            show(found, rows, work)
    if not BF16_FLAGS & cpu_flags():
        tell(f"bf16: not measured: this CPU ({about['cpu']}) has none of {', '.join(sorted(BF16_FLAGS))}")


if __name__ == "__main__":
    main()
