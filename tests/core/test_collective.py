"""Gradients over ranks: the sum in fixed buckets, extras in the last, unused parameters as on one rank."""

import pytest
import torch
from torch import nn

from largebatch.core import GradientSum, World, world_from_environment
from ranks import run_ranks


def model_and_data():
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(4, 30), nn.Linear(30, 2), nn.Linear(4, 2), nn.Linear(3, 3)]).double()
    return model, torch.randn(11, 4, dtype=torch.float64)


def loss_of(model, x, with_branch):
    out = model[1](torch.tanh(model[0](x)))
    return ((out + model[2](x)) if with_branch else out).square().sum()


def sum_on_a_rank(shares, bucket_bytes):
    import largebatch.core._collective as collective

    collective.BUCKET_BYTES = bucket_bytes
    with world_from_environment(torch.device("cpu")) as world:
        model, x = model_and_data()
        start, stop = shares[world.rank]
        total = GradientSum(list(model.parameters()), world)
        rows = []
        for _ in range(2):  # the second update must not remember the first
            for p in model.parameters():
                p.grad = None
            middle = (start + stop) // 2
            loss_of(model, x[start:middle], with_branch=False).backward()
            total.arm()
            # Only rank 1 uses the branch, nobody the last layer.
            loss_of(model, x[middle:stop], with_branch=world.rank == 1).backward()
            extras = total.finish(torch.tensor([1.0, float(stop - start)], dtype=torch.float64))
            rows.append((extras, [None if p.grad is None else p.grad.clone() for p in model.parameters()]))
        total.close()
        gathered = world.gather(torch.arange(world.rank + 1.0))
        assert world.broadcast_bytes(b"", torch.device("cpu")) == b""
        return rows, gathered, world.broadcast_bytes(b"from rank %d" % world.rank, torch.device("cpu"))


@pytest.mark.parametrize("bucket_bytes", [4 << 20, 300])
@pytest.mark.parametrize("shares", [[(0, 9), (9, 11)], [(0, 4), (4, 11), (11, 11)]])
def test_sums_equal_one_process_for_unequal_ranks(shares, bucket_bytes):
    model, x = model_and_data()
    middle = sum(shares[1]) // 2
    (loss_of(model, x[:middle], False) + loss_of(model, x[middle : shares[1][1]], True)).backward()
    expected = [p.grad for p in model.parameters()]
    for rows, gathered, message in run_ranks(sum_on_a_rank, len(shares), shares, bucket_bytes):
        for extras, grads in rows:
            assert extras.tolist() == [len(shares), 11]
            for found, wanted in zip(grads, expected, strict=True):
                assert (found is None) == (wanted is None)
                if wanted is not None:
                    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        assert gathered.tolist() == [float(i) for n in range(1, len(shares) + 1) for i in range(n)]
        assert message == b"from rank 0"


def test_a_world_of_one_does_no_work():
    model, _ = model_and_data()
    total = GradientSum(list(model.parameters()), World())
    extras = torch.ones(3)
    assert total.finish(extras) is extras
    assert World().broadcast_bytes(b"x", torch.device("cpu")) == b"x"
