"""Out of memory: smaller micro-batches, the same result; and a plain message where they cannot be smaller."""

import pytest
import torch
from torch import nn

import small_tasks
from largebatch.train import Execution, fit

LIMIT = 20


class Hungry(nn.Module):
    """Runs out of memory above LIMIT samples, in its backward pass, as a device would."""

    def __init__(self):
        super().__init__()
        self.inner = small_tasks.perceptron()

    def forward(self, x):
        out = self.inner(x)
        if self.training and len(x) > LIMIT:
            out.register_hook(self.refuse)
        return out

    @staticmethod
    def refuse(grad):
        raise torch.OutOfMemoryError("CUDA out of memory")


def weights(run):
    return torch.cat([p.detach().reshape(-1) for p in run.model.parameters()])


def test_the_micro_batch_is_halved_until_it_fits_and_nothing_else_changes():
    hungry = fit(small_tasks.task(Hungry), small_tasks.recipe(), progress=False)
    plain = fit(small_tasks.task(), small_tasks.recipe(), progress=False)
    torch.testing.assert_close(weights(hungry), weights(plain), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(hungry.model.inner[1].running_var, plain.model[1].running_var, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ghost", [32, None])
def test_what_cannot_be_halved_says_what_to_do(ghost):
    with pytest.raises(
        RuntimeError, match="it cannot be halved here: use a smaller micro_batch_size or ghost_batch_size"
    ):
        fit(small_tasks.task(Hungry), small_tasks.recipe(ghost_batch_size=ghost), progress=False)


class HungryAtTheSecondPass(Hungry):
    """Runs out of memory in SAM's second pass, when the first has already counted its statistics."""

    def forward(self, x):
        frozen = any(getattr(module, "is_frozen", False) for module in self.modules())
        out = self.inner(x)
        if self.training and frozen and len(x) > LIMIT:
            out.register_hook(self.refuse)
        return out


def test_statistics_of_the_first_pass_survive_a_second_that_is_repeated():
    recipe = small_tasks.recipe(sam_rho=0.05)
    hungry = fit(small_tasks.task(HungryAtTheSecondPass), recipe, progress=False)
    plain = fit(small_tasks.task(), recipe, progress=False)
    torch.testing.assert_close(hungry.model.inner[1].running_var, plain.model[1].running_var, rtol=1e-12, atol=1e-12)
    assert hungry.model.inner[1].num_batches_tracked == plain.model[1].num_batches_tracked


class Longest(nn.Module):
    """Notes the largest batch it is evaluated on."""

    largest = 0

    def __init__(self):
        super().__init__()
        self.inner = small_tasks.perceptron()

    def forward(self, x):
        if not self.training:
            Longest.largest = max(Longest.largest, len(x))
        return self.inner(x)


def test_evaluation_keeps_to_the_micro_batch():
    fit(
        small_tasks.task(Longest),
        small_tasks.recipe(duration="1ep"),
        execution=Execution(micro_batch_size=16),
        progress=False,
    )
    assert Longest.largest <= 17  # a remainder of one joins its neighbour


class HungryWhenEvaluated(Hungry):
    """Runs out of memory above LIMIT samples in evaluation."""

    def forward(self, x):
        if not self.training and len(x) > LIMIT:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(x)


def test_evaluation_is_halved_until_it_fits():
    hungry = fit(small_tasks.task(HungryWhenEvaluated), small_tasks.recipe(duration="1ep"), progress=False)
    plain = fit(small_tasks.task(), small_tasks.recipe(duration="1ep"), progress=False)
    assert hungry.metrics == pytest.approx(plain.metrics, rel=1e-12)
