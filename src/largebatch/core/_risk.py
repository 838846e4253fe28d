"""Risk: the mean loss of a model over a data set, f(x) = Σ_i w_i·l_i(x) / Σ_i w_i, and its derivatives.

The sums run over all samples and are divided once: unequal batches and unequal ranks change nothing. A measurement leaves
no trace: modes, gradients, batch-norm buffers and random states are as before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from largebatch.core._collective import World
from largebatch.core._loading import Loader
from largebatch.core._params import flatten
from largebatch.core._statistics import BatchNormMode, batch_norm_mode, coupled_layers
from largebatch.core._task import Data, Loss, data_size, total, weigh

__all__ = ["Risk"]


@final
class Risk:
    """The mean loss over a data set as a function of the model's present parameters.

    Args:
        model: used as it is; its parameters that require gradients are the variables.
        loss: one value per example, or (values, weights).
        data: every sample counts once.
        batch_norm: "running" (as in evaluation) or "batch" (statistics of each batch: the value then depends on
            `batch_size`, and on ghosts where the model has them).
        batch_size: samples in one pass; with running statistics it changes the memory, not the value.
        world: each rank takes a contiguous share; all must call alike.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Data,
        *,
        batch_norm: BatchNormMode = "running",
        batch_size: int = 1024,
        world: World | None = None,
    ):
        if data_size(data) == 0:
            raise ValueError("data: expected at least one sample, got none")
        self.model = model
        self.loss = loss
        self.batch_norm: BatchNormMode = batch_norm
        self.world = World() if world is None else world
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("model: expected at least one parameter that requires a gradient, got none")
        self._size = data_size(data)
        self._batch_size = batch_size
        first = self.parameters[0]
        dtype = first.dtype if first.is_floating_point() else None
        self._loader = Loader(data, first.device, dtype=dtype)

    @property
    def dimension(self) -> int:
        """Number of parameters P."""
        return sum(p.numel() for p in self.parameters)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's `(inputs, targets)`, in the order of the data."""
        start = self._size * self.world.rank // self.world.size
        stop = self._size * (self.world.rank + 1) // self.world.size
        return self._loader.slices(start, stop, self._batch_size)

    def loss_sum(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
        """Weighted loss sum (0-D, with a graph) and count of one batch. Call inside `measuring`."""
        return total(*weigh(self.loss(self.model(inputs), targets), len(inputs)))

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Set the batch-norm mode, and on leaving restore all that a pass could have touched."""
        devices = [torch.cuda.current_device()] if self.parameters[0].is_cuda else []
        with torch.random.fork_rng(devices=devices), batch_norm_mode(self.model, self.batch_norm):
            yield

    @torch.no_grad()
    def value(self) -> float:
        """f(x), summed in float64."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.parameters[0].device)
        with self.measuring():
            for inputs, targets in self.batches():
                value, count = self.loss_sum(inputs, targets)
                sums += torch.stack([value.double(), torch.as_tensor(count, device=value.device).double()])
        value, count = self.world.sum(sums).tolist()
        return value / count

    def gradient(self) -> Tensor:
        """∇f(x), (P,), in the order of `parameters`; `p.grad` is not touched."""
        gradient = flatten([torch.zeros_like(p) for p in self.parameters])
        counts = gradient.new_zeros(1)
        with self.measuring(), torch.enable_grad():
            for inputs, targets in self.batches():
                value, count = self.loss_sum(inputs, targets)
                gradient += flatten(torch.autograd.grad(value, self.parameters, materialize_grads=True))
                counts += count
        return self.world.sum(gradient) / self.world.sum(counts)

    def per_example_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Gradient of each example's loss sum, (n, P), by vmap over the model.

        Raises:
            ValueError: the batch-norm mode or the model couples examples, so that none has a gradient of its own.
        """
        with self.measuring(), torch.enable_grad():
            coupled = coupled_layers(self.model)
            if coupled:
                raise ValueError(
                    f"expected layers that treat examples apart, but {', '.join(coupled)} mix them in this mode: "
                    'use batch_norm="running", and batch norms that track running statistics'
                )
            named = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

            def example_loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
                outputs = torch.func.functional_call(self.model, parameters, (x[None],))
                return total(*weigh(self.loss(outputs, y[None]), 1))[0]

            grads = torch.func.vmap(torch.func.grad(example_loss), in_dims=(None, 0, 0))(named, inputs, targets)
        return torch.cat([grads[name].reshape(len(inputs), -1) for name in named], dim=1)
