"""What correct loops choose between: data and samplers, networks, optimizers, schedules, precision, averaging, evaluation.

Every choice is a name; the functions below give what it stands for. None of them is a mistake.
"""

import math
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils import data as reading
from torch.utils.checkpoint import checkpoint

# Data


class Samples(reading.Dataset):
    """(inputs (5,), class), or (inputs (6, 5), a class per token, some -100)."""

    def __init__(self, options):
        g = torch.Generator().manual_seed(options.seed)
        shape = (options.samples, 6, 5) if options.tokens else (options.samples, 5)
        self.inputs = torch.randn(shape, generator=g)
        self.targets = (self.inputs.sum(-1) > 0).long() + torch.randint(0, 2, shape[:-1], generator=g)
        self.inputs = self.inputs.to(dtype_of(options))
        if options.tokens:
            lengths = torch.randint(1, 7, (options.samples,), generator=g)
            self.targets[torch.arange(6) >= lengths[:, None]] = -100
        self.augment = options.augment

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        noise = 0.1 * torch.randn_like(self.inputs[index]) if self.augment else 0.0
        return self.inputs[index] + noise, self.targets[index]


def transformed(inputs, options):
    """In the loop, after the loader."""
    return 2 * inputs - 0.1 if options.transform else inputs


class Buckets(reading.Sampler):
    """A batch sampler as people write them: samples of like size together, whole batches shuffled and dealt to the ranks."""

    def __init__(self, data, batch, rank, size, seed):
        order = sorted(range(len(data)), key=lambda index: float(data.inputs[index].float().norm()))
        self.batches = [order[i : i + batch] for i in range(0, len(order) - batch + 1, batch)]
        self.share, self.seed = slice(rank, len(self.batches) // size * size, size), seed

    def __len__(self):
        return len(range(len(self.batches))[self.share])

    def __iter__(self):
        g = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.batches), generator=g).tolist()
        return iter([self.batches[i] for i in order[self.share]])


def sampler_of(data, options, rank, size, epoch):
    """One epoch's sampler for this rank."""
    g = torch.Generator().manual_seed(options.seed + 1000 * epoch + rank)
    share = len(data) // size
    if options.sampler == "replacement":
        return reading.RandomSampler(data, replacement=True, num_samples=share, generator=g)
    if options.sampler == "weighted":
        return reading.WeightedRandomSampler(torch.rand(len(data), generator=g) + 0.1, share, generator=g)
    if options.sampler == "part":
        part = len(data) * 4 // 5
        return reading.SubsetRandomSampler(range(rank, part, size)[: part // size], generator=g)
    sampler = reading.DistributedSampler(data, size, rank, seed=options.seed, drop_last=True)
    sampler.set_epoch(epoch)
    return sampler


def loader_of(data, options, rank, size, epoch):
    """This rank's batches in one epoch: micro-batches of equal length, the last one perhaps short."""
    micro = math.ceil(options.batch / size / options.accumulation)
    workers = options.loader_workers
    if options.sampler == "buckets":
        batches = Buckets(data, micro, rank, size, options.seed + epoch)
        return reading.DataLoader(data, batch_sampler=batches, num_workers=workers)
    is_whole = bool(options.batch_norm or options.equal)
    sampler = sampler_of(data, options, rank, size, epoch)
    return reading.DataLoader(data, micro, sampler=sampler, drop_last=is_whole, num_workers=workers)


# Networks


class Net(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.first = nn.GRU(5, 8, batch_first=True) if options.recurrent else nn.Linear(5, 8)
        self.norm = nn.BatchNorm1d(8) if options.batch_norm else nn.Identity()
        self.drop = nn.Dropout(options.dropout)
        self.last = nn.Linear(8, 3)
        if options.spectral:
            self.last = nn.utils.parametrizations.spectral_norm(self.last)
        self.checkpoint = options.checkpoint

    def forward(self, x):
        h = self.first(x)[0] if isinstance(self.first, nn.GRU) else self.first(x)
        if not self.checkpoint:
            return self.last(self.middle(h))
        return self.last(checkpoint(self.middle, h, use_reentrant=self.checkpoint == "reentrant"))

    def middle(self, h):
        return self.drop(torch.tanh(self.norm(h.flatten(0, -2)).view(h.shape)))


def example_loss(outputs, targets):
    values = F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape)
    return (values, (targets != -100).float()) if targets.dim() > 1 else values


# Precision


def dtype_of(options):
    """Of parameters and inputs."""
    return {"float64": torch.float64, "bfloat16": torch.bfloat16}.get(options.precision, torch.float32)


def cast_of(options):
    """What a forward pass and its loss run under."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if options.precision == "autocast" else nullcontext()


# Optimizers and schedules


def optimizer_of(model, options):
    named = list(model.named_parameters())
    if options.groups:
        parameters = [
            {"params": [p for _, p in named if p.dim() > 1], "weight_decay": 0.01},
            {"params": [p for _, p in named if p.dim() <= 1], "weight_decay": 0.0, "lr": 0.05},
        ]
    else:
        parameters = [p for _, p in named]
    return {
        "sgd": lambda: torch.optim.SGD(parameters, lr=0.1, momentum=options.momentum),
        "nesterov": lambda: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
        "adam": lambda: torch.optim.Adam(parameters, lr=0.01),
        "adamw": lambda: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0),
        "rmsprop": lambda: torch.optim.RMSprop(parameters, lr=0.01),
    }[options.optimizer]()


PER_EPOCH = ("staircase", "plateau", "exponential")


def schedule_of(optimizer, options):
    """A scheduler that is stepped once per update, or once per epoch; None for a constant rate."""
    cycles = options.optimizer not in ("rmsprop",) and (options.optimizer != "sgd" or options.momentum > 0)
    make = {
        "": lambda: None,
        "warmup": lambda: lr_scheduler.LambdaLR(optimizer, lambda update: min(1.0, (update + 1) / 8)),
        "cosine": lambda: lr_scheduler.LambdaLR(optimizer, lambda update: 0.5 + 0.5 * math.cos(update / 20)),
        "step": lambda: lr_scheduler.StepLR(optimizer, 2, 0.5),
        "onecycle": lambda: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=200, cycle_momentum=cycles),
        "restarts": lambda: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3),
        "sequential": lambda: lr_scheduler.SequentialLR(
            optimizer,
            [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(optimizer, 20)],
            [3],
        ),
        "staircase": lambda: lr_scheduler.LambdaLR(optimizer, lambda epoch: (epoch + 1) / 5),
        "exponential": lambda: lr_scheduler.ExponentialLR(optimizer, 0.9),
        "plateau": lambda: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
    }
    return make[options.schedule]()


# Evaluation


def evaluate(model, data, options):
    """On data of its own, or carelessly: in training mode, with gradients that nobody uses."""
    held_out = reading.DataLoader(reading.Subset(data, range(8)), batch_size=4)
    if options.evaluate == "careless":
        return sum(model(inputs).square().mean().item() for inputs, _ in held_out)
    model.eval()
    with torch.no_grad():
        total = sum(float(model(inputs).float().sum()) for inputs, _ in held_out)
    model.train()
    return total
