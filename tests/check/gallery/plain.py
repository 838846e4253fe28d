"""A loop without any framework, on one worker: accumulation over ragged micro-batches of a resident data set."""

import sys

import torch
from torch import nn
from torch.nn import functional as F

from largebatch import check, core

BUG = sys.argv[1] if len(sys.argv) > 1 else ""


def main():
    torch.manual_seed(0)
    inputs, targets = torch.randn(40, 5), torch.randint(0, 3, (40,))
    model = nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.3), nn.Tanh(), nn.Linear(16, 3))
    check.reference(model, (inputs, targets), core.cross_entropy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        for batch in torch.randperm(40).split(15):
            optimizer.zero_grad()
            for part in batch.split(6):
                loss = F.cross_entropy(model(inputs[part]), targets[part], reduction="sum") / len(batch)
                if BUG == "accumulation_not_divided":
                    loss = F.cross_entropy(model(inputs[part]), targets[part])
                loss.backward()
            optimizer.step()


main()
