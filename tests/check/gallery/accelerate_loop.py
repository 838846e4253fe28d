"""A loop on Accelerate with gradient accumulation, the scheduler stepped once per update."""

import sys

import accelerate
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from largebatch import check, core

BUG = sys.argv[1] if len(sys.argv) > 1 else ""


def main():
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2, step_scheduler_with_optimizer=False)
    torch.manual_seed(0)
    samples = 63 if BUG == "duplicates_from_padding" else 64
    data = TensorDataset(torch.randn(samples, 5), torch.randint(0, 3, (samples,)))
    model = nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.2), nn.Tanh(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=10)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(data, batch_size=8, shuffle=True))
    if BUG == "scheduler_steps_per_worker":
        accelerator.step_scheduler_with_optimizer = True
        scheduler = accelerator.prepare(scheduler)
    check.reference(model, data, core.cross_entropy)
    for _ in range(2):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(inputs), targets))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                if accelerator.sync_gradients:
                    scheduler.step()
                optimizer.zero_grad()


main()
