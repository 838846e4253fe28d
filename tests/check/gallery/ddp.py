"""A data-parallel loop with ragged batches and accumulation. Everything is right, unless `--bug NAME` plants one mistake.

What it computes: the sum of the losses of the whole global batch, over its count; or, with `--equal 1`, the mean of the
means of equal micro-batches, which is the same. DDP averages over the ranks, hence the factor W.
"""

import argparse
import math
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import choices
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from largebatch import check


def arguments(words=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--bug", default="")
    parser.add_argument("--framework", default="ddp", choices=["ddp", "accelerate"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=62)
    parser.add_argument("--sampler", default="own", help="own, resident, or one of choices.py")
    parser.add_argument("--batch", type=int, default=24, help="global")
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--equal", type=int, default=0, help="equal micro-batches, taken one by one")
    parser.add_argument("--ragged", type=int, default=1, help="ranks take unequal shares")
    parser.add_argument("--tokens", type=int, default=0, help="a loss per token, some masked")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--batch-norm", type=int, default=0)
    parser.add_argument("--recurrent", type=int, default=0)
    parser.add_argument("--spectral", type=int, default=0)
    parser.add_argument("--checkpoint", default="", choices=["", "plain", "reentrant"])
    parser.add_argument("--precision", default="float32", choices=["float32", "float64", "bfloat16", "autocast"])
    parser.add_argument("--clip", type=float, default=0.0)
    parser.add_argument("--clip-kind", default="norm", choices=["norm", "value"])
    parser.add_argument("--amp", type=int, default=0)
    parser.add_argument("--optimizer", default="sgd", choices=["sgd", "nesterov", "adam", "adamw", "rmsprop"])
    parser.add_argument("--groups", type=int, default=0, help="no decay on vectors, and another rate")
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--schedule", default="")
    parser.add_argument("--augment", type=int, default=0)
    parser.add_argument("--transform", type=int, default=0, help="of inputs, after the loader")
    parser.add_argument("--evaluate", default="", choices=["", "plain", "careless"])
    parser.add_argument("--loader-workers", type=int, default=0)
    parser.add_argument("--decay-in-loss", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=2)
    return parser.parse_args(words)


def windows(options, epoch, rank, size):
    """This rank's micro-batches of every update, as indices: one permutation, split, for `--sampler own`."""
    if options.bug == "duplicates_from_padding":
        sampler = DistributedSampler(range(options.samples), size, rank, seed=options.seed)
        sampler.set_epoch(epoch)
        mine, share = list(sampler), options.batch // size
        shares = [mine[i : i + share] for i in range(0, len(mine), share)]
        totals = [size * len(part) for part in shares]
    else:
        order = torch.randperm(options.samples, generator=torch.Generator().manual_seed(options.seed + epoch)).tolist()
        batches = [order[i : i + options.batch] for i in range(0, len(order), options.batch)]
        if len(batches[-1]) < 5 * size:  # too few for every rank
            batches[-2:] = [batches[-2] + batches[-1]]
        shares = [share_of(batch, options, rank, size) for batch in batches]
        totals = [len(batch) for batch in batches]
    return [parts_of(share, total, options, size) for share, total in zip(shares, totals, strict=True)]


def parts_of(share, total, options, size):
    """As many micro-batches on every rank, of nearly equal length and at least two samples, as batch norm wants them."""
    micro = math.ceil(options.batch / size / options.accumulation)
    smallest = total * 2 // sum(range(2, size + 2)) if options.ragged else total // size
    parts = min(options.accumulation, math.ceil(total / size / micro), max(1, smallest // 2))
    ends = [len(share) * (k + 1) // parts for k in range(parts)]
    return [share[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def share_of(batch, options, rank, size):
    if options.bug == "workers_read_same_data":
        return batch[: len(batch) // size]
    weights = [rank + 2 if options.ragged else 1 for rank in range(size)]
    ends = [round(len(batch) * sum(weights[: r + 1]) / sum(weights)) for r in range(size)]
    return batch[ends[rank - 1] if rank else 0 : ends[rank]]


def batches_of(data, options, epoch, rank, size):
    """This rank's batches of one epoch, and how many there are in each window."""
    if options.sampler in ("own", "resident"):
        plan = windows(options, epoch, rank, size)
        parts, steps = [part for window in plan for part in window], [len(window) for window in plan]
        if options.sampler == "resident":
            return ((data.inputs[part], data.targets[part]) for part in parts), steps
        return DataLoader(data, batch_sampler=parts, num_workers=options.loader_workers), steps
    ranks = 2 * size if options.bug == "samples_never_seen" else size
    loader = choices.loader_of(data, options, rank, ranks, 0 if options.bug == "same_order_every_epoch" else epoch)
    full, rest = divmod(len(loader), options.accumulation)
    return loader, [options.accumulation] * full + [rest] * (rest > 0)


def count(targets):
    return (targets != -100).sum()


def penalty(model, options):
    return 0.5 * options.decay_in_loss * sum(p.square().sum() for p in model.parameters())


def factor(options, size, steps, total):
    """What the loss is multiplied by, wrongly."""
    return {
        "summed_over_workers": size,
        "divided_by_workers_twice": 1 / size,
        "accumulation_not_divided": steps,
        "accumulation_divided_twice": 1 / steps,
        "short_last_window": steps / options.accumulation if steps < options.accumulation else 1,
        "not_divided_by_count": total,
        "decay_scaled_with_loss": 4,
        "unknown_factor": 1.7,
    }.get(options.bug, 1)


@dataclass
class Loop:
    options: argparse.Namespace
    model: nn.Module
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None
    scaler: torch.amp.GradScaler
    accelerator: Any
    size: int

    def update(self, batches, steps):
        bug = self.options.bug
        window, total = islice(batches, steps), None
        if not self.options.equal:
            window = list(window)
            total = self.count(window)
        if bug != "zero_grad_forgotten":
            self.optimizer.zero_grad()
        for step, (inputs, targets) in enumerate(window):
            if bug == "micro_batches_lost" and step:
                self.optimizer.zero_grad()
            with self.quiet() if step < steps - 1 else nullcontext():
                self.backward(choices.transformed(inputs, self.options), targets, steps, total)
            if bug == "clipped_per_micro_batch":
                self.clip()
            if bug == "scheduler_steps_per_micro_batch":
                self.scheduler.step()
        self.average()
        self.prepare()
        if bug == "loss_scale_not_removed":
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.scheduler and not self.is_per_epoch and bug != "scheduler_steps_per_micro_batch":
            for _ in range(self.size if bug == "scheduler_steps_per_worker" else 1):
                self.scheduler.step()

    def count(self, window):
        """All targets of a window, on all ranks."""
        total = torch.stack([count(targets) for _, targets in window]).sum()
        if self.options.bug == "labels_without_loss_counted":
            total += sum(len(targets) for _, targets in window)
        dist.all_reduce(total)
        return total

    @property
    def is_per_epoch(self):
        return self.options.schedule in choices.PER_EPOCH

    def quiet(self):
        """Before the last micro-batch of a window nothing is averaged over the ranks."""
        if self.accelerator is not None:
            return self.accelerator.no_sync(self.wrapped)
        return self.wrapped.no_sync() if isinstance(self.wrapped, DistributedDataParallel) else nullcontext()

    def backward(self, inputs, targets, steps, total):
        with choices.cast_of(self.options):
            loss = self.loss(self.wrapped(inputs), targets, steps, total)
        if self.accelerator is not None:
            self.accelerator.backward(loss)
        else:
            self.scaler.scale(loss).backward()

    def loss(self, outputs, targets, steps, total):
        values = F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="sum")
        if total is None:
            total = len(targets) * steps * self.size
        loss = values * self.size / total
        if self.options.bug == "mean_of_means":
            loss = values / count(targets).clamp(min=1) / steps
        if self.options.decay_in_loss:
            loss = loss + penalty(self.model, self.options) / steps
        if self.options.bug == "unexplained_gradient":
            loss = loss + 0.05 * sum(p.abs().sum() for p in self.model.last.parameters())
        return loss * factor(self.options, self.size, steps, total)

    def clip(self):
        if self.options.clip_kind == "value":
            nn.utils.clip_grad_value_(self.model.parameters(), self.options.clip)
        else:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)

    def average(self):
        """What DDP does, where it is not there to do it."""
        if self.options.bug == "clipped_before_averaging":
            self.clip()
        if self.options.bug in ("clipped_before_averaging", "parameters_differ"):
            for p in self.model.parameters():
                dist.all_reduce(p.grad)
                p.grad /= self.size

    def prepare(self):
        bug = self.options.bug
        if self.options.clip and bug != "clipped_while_scaled" and self.options.amp:
            self.scaler.unscale_(self.optimizer)
        if self.options.clip and bug not in ("clipped_per_micro_batch", "clipped_before_averaging"):
            self.clip()
        if bug == "momentum_corrected_in_sgd":
            correct_momentum(self.optimizer)

    def end_epoch(self, epoch, data):
        loss = choices.evaluate(self.model, data, self.options) if self.options.evaluate else 1.0 / (epoch + 1)
        if self.scheduler and self.is_per_epoch:
            self.scheduler.step(*([loss] if self.options.schedule == "plateau" else []))


def loop_of(options, model, size):
    """The loop of a model that is not wrapped yet."""
    bare = options.bug in ("parameters_differ", "gradients_not_averaged", "clipped_before_averaging")
    optimizer = choices.optimizer_of(model, options)
    scheduler = choices.schedule_of(optimizer, options)
    wrapped, accelerator = model, None
    if options.framework == "accelerate" and not bare:
        import accelerate

        accelerator = accelerate.Accelerator(cpu=True, step_scheduler_with_optimizer=False)
        wrapped, optimizer = accelerator.prepare(model, optimizer)
    elif not bare:
        wrapped = DistributedDataParallel(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=bool(options.amp))
    return Loop(options, model, wrapped, optimizer, scheduler, scaler, accelerator, size)


def main(words=None):
    options = arguments(words)
    joined = not dist.is_initialized()
    if joined:
        dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(options.seed + (rank if options.bug == "parameters_differ" else 0))
    model = choices.Net(options).to(choices.dtype_of(options))
    data = choices.Samples(options)
    told = (data.inputs, data.targets) if options.sampler == "resident" else data
    check.reference(model, told, choices.example_loss)
    loop = loop_of(options, model, size)
    if options.bug != "augmentation_same_on_workers":
        torch.manual_seed(options.seed + 1000 * rank)  # dropout and augmentation of its own for every rank
    for epoch in range(options.epochs):
        loader, windows_steps = batches_of(data, options, epoch, rank, size)
        batches = iter(loader)
        for steps in windows_steps:
            loop.update(batches, steps)
        next(batches, None)
        loop.end_epoch(epoch, data)
    if joined:
        dist.destroy_process_group()


def correct_momentum(optimizer):
    """Goyal et al. 2017, equation 10: right for another form of SGD."""
    for group in optimizer.param_groups:
        before = group.get("earlier", group["lr"])
        for p in group["params"]:
            if "momentum_buffer" in optimizer.state[p]:
                optimizer.state[p]["momentum_buffer"].mul_(group["lr"] / before)
        group["earlier"] = group["lr"]


if __name__ == "__main__":
    main()
