"""The check inside a run that goes on: every rank gets the verdict on the first updates, and the run is left alone."""

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn import functional as F

from largebatch import check
from largebatch.core import cross_entropy, world_from_environment
from largebatch.replay import ExampleLoss
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


def _uneven(updates):
    """Each rank makes its own number of updates; what both are told."""
    with world_from_environment(torch.device("cpu")) as world:
        torch.manual_seed(0)
        model, x, y = nn.Linear(4, 3), torch.randn(30, 4), torch.randint(0, 3, (30,))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        watch = check.Watch(gradients=2)
        watch.reference(ExampleLoss(model, (x, y), cross_entropy))
        for update in range(updates[world.rank]):
            part = torch.arange(5) + 5 * (update + 3 * world.rank)
            optimizer.zero_grad()
            F.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
        found = watch.finish()
        return found.verdict, found.culprits, found.reason


HOOKS = {
    "allreduce_hook": lambda: (None, default_hooks.allreduce_hook),
    "fp16_compress_hook": lambda: (None, default_hooks.fp16_compress_hook),
    "fp16_compress_wrapper": lambda: (None, default_hooks.fp16_compress_wrapper(default_hooks.allreduce_hook)),
    "powerSGD_hook": lambda: (
        powerSGD_hook.PowerSGDState(None, 1, start_powerSGD_iter=2),
        powerSGD_hook.powerSGD_hook,
    ),
}


def _with_hooks():
    """What is found under each communication hook of DDP."""
    found = {}
    with world_from_environment(torch.device("cpu")) as world:
        for name, hook in HOOKS.items():
            torch.manual_seed(0)
            model, x, y = nn.Linear(64, 3), torch.randn(30, 64), torch.randint(0, 3, (30,))
            watch = check.Watch()
            ddp = nn.parallel.DistributedDataParallel(model)
            ddp.register_comm_hook(*hook())
            watch.reference(ExampleLoss(model, (x, y), cross_entropy))
            part = torch.arange(5) + 5 * world.rank
            F.cross_entropy(ddp(x[part]), y[part]).backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step()
            result = watch.finish()
            found[name] = result.verdict, result.gradients, result.reason
    return found


def test_communication_hooks_that_round_are_allowed_it_and_those_that_approximate_are_not_judged():
    for found in run_ranks(_with_hooks, 2):
        approximate = found.pop("powerSGD_hook")
        assert set(found.values()) == {("pass", 1, "")}
        assert approximate[:2] == ("error", 0)
        assert "the communication hook powerSGD_hook approximates the gradients" in approximate[2]


def test_ranks_with_unequal_numbers_of_updates_are_told_the_same():
    assert run_ranks(_uneven, 2, (1, 2)) == [("fail", ("gradients_not_averaged",), "")] * 2
    assert run_ranks(_uneven, 2, (1, 0)) == [("error", (), "worker 1 made no update while it watched")] * 2


def test_a_watch_without_an_update_says_so():
    watch = check.Watch()
    assert watch.updates == 0
    result = watch.finish()
    assert (result.verdict, result.reason) == ("error", "no update was seen while it watched")
