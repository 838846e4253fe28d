"""The check inside a run that goes on: every rank gets the verdict on the first updates, and the run is left alone."""

import torch
from torch import nn
from torch.nn import functional as F

from largebatch import check
from largebatch.check._reference import ExampleLoss
from largebatch.core import cross_entropy, world_from_environment
from ranks import run_ranks


def _loop(factor, watched):
    """Two ranks with unequal shares; returns what was found and the weights at the end."""
    with world_from_environment(torch.device("cpu")) as world:
        torch.manual_seed(0)
        model, x, y = nn.Linear(4, 3), torch.randn(30, 4), torch.randint(0, 3, (30,))
        ddp = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        watch = check.Watch() if watched else None
        if watch is not None:
            watch.reference(ExampleLoss(model, (x, y), cross_entropy))
        found = None
        for update in range(3):
            batch = torch.arange(10) + 10 * update
            mine = batch[:4] if world.rank == 0 else batch[4:]
            optimizer.zero_grad()
            (factor * F.cross_entropy(ddp(x[mine]), y[mine], reduction="sum") / 10).backward()
            optimizer.step()
            if watch is not None and update == 0:
                found = watch.finish()
        return None if found is None else (
            found.verdict,
            found.culprits,
            found.gradients,
        ), model.weight.detach().clone()


def test_both_ranks_are_told_the_same_and_the_run_goes_on_as_before():
    right, wrong, bare = (run_ranks(_loop, 2, *arguments) for arguments in ((2, True), (4, True), (2, False)))
    assert [found for found, _ in right] == [("pass", (), 1)] * 2
    assert [found for found, _ in wrong] == [("fail", ("summed_over_workers",), 1)] * 2
    assert torch.equal(right[0][1], bare[0][1])


def test_a_watch_without_an_update_says_so():
    watch = check.Watch()
    assert watch.updates == 0
    result = watch.finish()
    assert (result.verdict, result.reason) == ("error", "no update was seen while it watched")
