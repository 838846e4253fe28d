"""A data-parallel loop with ragged batches and accumulation. Everything is right, unless `--bug NAME` plants one mistake.

What it computes: the sum of the losses of the whole global batch, over its count. DDP averages over the ranks, hence the
factor W.
"""

import argparse
import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from largebatch import check


def arguments(words=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--bug", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=62)
    parser.add_argument("--batch", type=int, default=24, help="global")
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--ragged", type=int, default=1, help="ranks take unequal shares")
    parser.add_argument("--tokens", type=int, default=0, help="a loss per token, some masked")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--batch-norm", type=int, default=0)
    parser.add_argument("--clip", type=float, default=0.0)
    parser.add_argument("--amp", type=int, default=0)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--schedule", default="")
    parser.add_argument("--augment", type=int, default=0)
    parser.add_argument("--loader-workers", type=int, default=0)
    parser.add_argument("--decay-in-loss", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=2)
    return parser.parse_args(words)


class Samples(Dataset):
    """(inputs (5,), class), or (inputs (6, 5), a class per token, some -100)."""

    def __init__(self, options):
        g = torch.Generator().manual_seed(options.seed)
        shape = (options.samples, 6, 5) if options.tokens else (options.samples, 5)
        self.inputs = torch.randn(shape, generator=g)
        self.targets = (self.inputs.sum(-1) > 0).long() + torch.randint(0, 2, shape[:-1], generator=g)
        if options.tokens:
            lengths = torch.randint(1, 7, (options.samples,), generator=g)
            self.targets[torch.arange(6) >= lengths[:, None]] = -100
        self.augment = options.augment

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        noise = 0.1 * torch.randn(self.inputs[index].shape) if self.augment else 0.0
        return self.inputs[index] + noise, self.targets[index]


class Net(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.norm = nn.BatchNorm1d(8) if options.batch_norm else nn.Identity()
        self.drop = nn.Dropout(options.dropout)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        h = self.first(x)
        h = self.norm(h.flatten(0, -2)).view(h.shape)
        return self.last(self.drop(torch.tanh(h)))


def example_loss(outputs, targets):
    values = F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape)
    return (values, (targets != -100).float()) if targets.dim() > 1 else values


def windows(options, epoch, rank, size):
    """This rank's micro-batches of every update, and the global batch of each: one permutation, split."""
    if options.bug == "duplicates_from_padding":
        data = range(options.samples)
        sampler = DistributedSampler(data, size, rank, seed=options.seed)
        sampler.set_epoch(epoch)
        mine, share = list(sampler), options.batch // size
        shares = [mine[i : i + share] for i in range(0, len(mine), share)]
        totals = [size * len(part) for part in shares]
    else:
        seed = options.seed + (0 if options.bug == "same_order_every_epoch" else epoch)
        order = torch.randperm(options.samples, generator=torch.Generator().manual_seed(seed)).tolist()
        if options.bug == "samples_never_seen":
            order = sorted(order)[: -options.batch - 1]
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


def count(targets):
    return (targets != -100).sum()


def schedule(options, optimizer):
    if options.schedule == "staircase":
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: (epoch + 1) / 5)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: min(1.0, (update + 1) / 8))


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
    size: int

    def update(self, window):
        bug = self.options.bug
        total = torch.stack([count(targets) for _, targets in window]).sum()
        dist.all_reduce(total)
        if bug != "zero_grad_forgotten":
            self.optimizer.zero_grad()
        for step, (inputs, targets) in enumerate(window):
            if bug == "micro_batches_lost" and step:
                self.optimizer.zero_grad()
            if isinstance(self.wrapped, DistributedDataParallel):
                self.wrapped.require_backward_grad_sync = step == len(window) - 1
            loss = self.loss(inputs, targets, len(window), total)
            self.scaler.scale(loss).backward()
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
        if self.scheduler and self.options.schedule != "staircase" and bug != "scheduler_steps_per_micro_batch":
            for _ in range(self.size if bug == "scheduler_steps_per_worker" else 1):
                self.scheduler.step()

    def loss(self, inputs, targets, steps, total):
        values = F.cross_entropy(self.wrapped(inputs).flatten(0, -2), targets.flatten(), reduction="sum")
        loss = values * self.size / total
        if self.options.bug == "mean_of_means":
            loss = values / count(targets).clamp(min=1) / steps
        if self.options.decay_in_loss:
            loss = loss + penalty(self.model, self.options) / steps
        if self.options.bug == "unexplained_gradient":
            loss = loss + 0.05 * self.model.last.weight.abs().sum()
        return loss * factor(self.options, self.size, steps, total)

    def clip(self):
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


def main(words=None):
    options = arguments(words)
    bug = options.bug
    joined = not dist.is_initialized()
    if joined:
        dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(options.seed + (rank if bug == "parameters_differ" else 0))
    model = Net(options)
    data = Samples(options)
    check.reference(model, data, example_loss)
    bare = bug in ("parameters_differ", "gradients_not_averaged", "clipped_before_averaging")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=options.momentum)
    loop = Loop(
        options,
        model,
        model if bare else DistributedDataParallel(model),
        optimizer,
        schedule(options, optimizer) if options.schedule else None,
        torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=bool(options.amp)),
        size,
    )
    if bug != "augmentation_same_on_workers":
        torch.manual_seed(options.seed + 1000 * rank)  # dropout and augmentation of its own for every rank
    for epoch in range(options.epochs):
        plan = windows(options, epoch, rank, size)
        loader = DataLoader(
            data, batch_sampler=[part for window in plan for part in window], num_workers=options.loader_workers
        )
        batches = iter(loader)
        for window in plan:
            loop.update([next(batches) for _ in window])
        next(batches, None)
        if options.schedule == "staircase":
            loop.scheduler.step()
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
