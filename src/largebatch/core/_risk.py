"""Risk: the mean loss of a model over a data set, f(x) = Σ_i w_i·l_i(x) / Σ_i w_i, and its derivatives.

The sums run over all samples and are divided once: unequal batches and unequal ranks change nothing. A measurement leaves
no trace: modes, gradients, batch-norm buffers and random states are as before. What would make a number meaningless (weights
that are not finite, a model that gives two answers, buffers that move) is refused before the first number.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import final

import torch
from torch import Tensor, nn

from largebatch.core._activations import counting_activations
from largebatch.core._batchnorm import has_batch_norm
from largebatch.core._collective import World
from largebatch.core._loading import Loader
from largebatch.core._params import displaced, flatten, unflatten
from largebatch.core._repeatable import require_finite_weights, require_repeatable
from largebatch.core._seeds import generator
from largebatch.core._statistics import BatchNormMode, batch_norm_mode, coupled_layers, reestimate, spare_statistics
from largebatch.core._task import Data, Loss, Metric, data_size, total, weigh

__all__ = ["Risk"]

EXAMINED_SAMPLES = 64  # enough for dropout to show, few enough to cost nothing beside a measurement
PIECE_SAMPLES = 512  # forward and backward through three convolutions: 0.31 s of 2,048 samples, 0.43 s in one piece
OUTWEIGHED = 12.0  # activations of a piece ÷ parameters, at least: F1's gradient takes 1.10 U in 4 pieces, 1.04 in 2
CACHE_BYTES = 1 << 30  # of batches read from a data set: a measurement passes over them many times


@final
class Risk:
    """The mean loss over a data set as a function of the model's present parameters.

    Args:
        model: used as it is, unless `dtype` asks for a copy; its parameters that require gradients are the variables.
        loss: one value per example, or (values, weights).
        data: every sample counts once.
        parameters: names of the variables, with wildcards: "classifier.*", or several; the rest is held fixed.
        batch_norm: "running" (as in evaluation), "batch" (statistics of each batch: the value then depends on
            `batch_size`, and on ghosts where the model has them), or "reestimated" (running statistics taken anew over
            `data`, at the weights that are measured; in derivatives they count as constants).
        batch_size: samples in one pass; with running statistics it changes the memory, not the value.
        dtype: measure a copy of the model in this dtype, such as torch.float64.
        world: each rank takes a contiguous share; all must call alike.

    Raises:
        ValueError: no samples, no parameters, a batch size below 1; the first measurement refuses a model that gives two
            answers.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Data,
        *,
        parameters: str | Sequence[str] | None = None,
        batch_norm: BatchNormMode = "running",
        batch_size: int = 1024,
        dtype: torch.dtype | None = None,
        world: World | None = None,
    ):
        if data_size(data) == 0:
            raise ValueError("data: expected at least one sample, got none")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1 sample, got {batch_size}")
        self.model = model if dtype is None else copy.deepcopy(model).to(dtype)
        self.loss = loss
        self.batch_norm: BatchNormMode = batch_norm
        self.world = World() if world is None else world
        named = _variables(self.model, parameters)
        self.names: list[str] = list(named)
        self.parameters: list[Tensor] = list(named.values())
        self.batch_size = batch_size
        self.data = data
        self._size = data_size(data)
        first = self.parameters[0]
        self._loader = Loader(data, first.device, dtype=first.dtype if first.is_floating_point() else None)
        self._cache: list[tuple[Tensor, Tensor]] | None = None
        self._is_examined = False
        self._activations = 0.0  # per example; known once examined
        self.passes = 0.0
        """What was spent, in forward and backward passes over the data, by count of operations: a forward alone is 1/3."""

    @property
    def dimension(self) -> int:
        """Number of variables P."""
        return sum(p.numel() for p in self.parameters)

    @property
    def samples(self) -> int:
        """Number of samples, over all ranks."""
        return self._size

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.parameters[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return self.parameters[0].dtype

    def point(self) -> Tensor:
        """The present variables, (P,), a copy."""
        return flatten(self.parameters).detach().clone()

    def subset(self, samples: int, seed: int = 0) -> "Risk":
        """The risk on `samples` samples drawn without replacement; itself where there are no more.

        Raises:
            ValueError: fewer than one sample.
        """
        if samples >= self._size:
            return self
        if samples < 1:
            raise ValueError(f"samples: expected at least 1, got {samples}")
        chosen = torch.randperm(self._size, generator=generator(seed, "subset"))[:samples].sort().values
        data = self.data
        part: Data = (
            (data[0][chosen], data[1][chosen])
            if isinstance(data, tuple)
            else torch.utils.data.Subset(data, chosen.tolist())
        )
        names = None if len(self.names) == len(_variables(self.model, None)) else self.names
        return Risk(
            self.model, self.loss, part, parameters=names, batch_norm=self.batch_norm, batch_size=self.batch_size,
            world=self.world,
        )  # fmt: skip

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's `(inputs, targets)`, in the order of the data."""
        return self._read() if self._cache is None else iter(self._cache)

    def piece_size(self, most: int = PIECE_SAMPLES, outweighed: float = OUTWEIGHED) -> int:
        """Samples of a pass: on a CPU about so many, whose activations its caches hold, if no layer mixes examples.

        Call inside `measuring`, which sets the layers' mode.

        Args:
            most: samples.
            outweighed: more of them, until activations are so many times the parameters, as each piece adds up a gradient.
        """
        if self.device.type != "cpu" or coupled_layers(self.model):
            return self.batch_size
        least = outweighed * self.dimension / self._activations if self._activations else 0.0
        return min(max(most, int(least)), self.batch_size)

    def pieces(self, most: int = PIECE_SAMPLES, outweighed: float = OUTWEIGHED) -> Iterator[tuple[Tensor, Tensor]]:
        """`batches` in passes of `piece_size`: for sums over examples. Call inside `measuring`."""
        size = self.piece_size(most, outweighed)
        for inputs, targets in self.batches():
            if size < self.batch_size:
                yield from zip(inputs.split(size), targets.split(size), strict=True)
            else:  # whole: a single sample at the end has joined the batch before
                yield inputs, targets

    def loss_sum(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
        """Weighted loss sum (0-D, with a graph) and count of one batch. Call inside `measuring`."""
        return total(*weigh(self.loss(self.model(inputs), targets), len(inputs)))

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Set the batch-norm mode, and on leaving restore all that a pass could have touched."""
        devices = [torch.cuda.current_device()] if self.device.type == "cuda" else []
        is_new = self.batch_norm == "reestimated" and has_batch_norm(self.model)
        mode = "batch" if self.batch_norm == "batch" else "running"
        with torch.random.fork_rng(devices=devices), spare_statistics(self.model) if is_new else nullcontext():
            self._examine()
            if is_new:
                self.reestimate()
            with batch_norm_mode(self.model, mode):
                yield

    def reestimate(self) -> None:
        """Take the model's running statistics anew over the data, at the present weights. This one leaves a trace."""
        self.passes += 1 / 3
        pairs = ((inputs, len(inputs)) for inputs, _ in self.batches())
        reestimate(self.model, self.model, pairs, world=self.world)

    def value(self) -> float:
        """f(x), summed in float64."""
        return self.means({})["loss"]

    @torch.no_grad()
    def means(self, metrics: Mapping[str, Metric]) -> dict[str, float]:
        """`{"loss": f(x), each metric: its mean over the samples}`, in one pass, summed in float64."""
        self.passes += 1 / 3
        sums = torch.zeros(3 + len(metrics), dtype=torch.float64, device=self.device)  # loss, weight, samples, metrics
        with self.measuring():
            for inputs, targets in self.pieces():
                outputs = self.model(inputs)
                value, count = total(*weigh(self.loss(outputs, targets), len(inputs)))
                row = [value, count, len(inputs), *(metric(outputs, targets).sum() for metric in metrics.values())]
                sums += torch.stack([torch.as_tensor(x, dtype=torch.float64, device=self.device) for x in row])
        loss, weight, seen, *values = self.world.sum(sums).tolist()
        return {"loss": loss / weight} | {name: value / seen for name, value in zip(metrics, values, strict=True)}

    def gradient(self) -> Tensor:
        """∇f(x), (P,), in the order of `parameters`; `p.grad` is not touched."""
        return self.value_and_gradient()[1]

    def value_and_gradient(self) -> tuple[float, Tensor]:
        """f(x) and ∇f(x), (P,), in one pass."""
        self.passes += 1.0
        gradient = torch.zeros(self.dimension, dtype=self.dtype, device=self.device)
        parts = unflatten(gradient, self.parameters)
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        with self.measuring(), torch.enable_grad():
            for inputs, targets in self.pieces():
                value, count = self.loss_sum(inputs, targets)
                grads = torch.autograd.grad(value, self.parameters, materialize_grads=True)
                torch._foreach_add_(parts, list(grads))
                sums += torch.stack([value.detach().double(), torch.as_tensor(count, device=value.device).double()])
        value, count = self.world.sum(sums).tolist()
        return value / count, self.world.sum(gradient).div_(count)

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
            named = {name: p.detach() for name, p in zip(self.names, self.parameters, strict=True)}

            def example_loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
                outputs = torch.func.functional_call(self.model, parameters, (x[None],))
                return total(*weigh(self.loss(outputs, y[None]), 1))[0]

            grads = torch.func.vmap(torch.func.grad(example_loss), in_dims=(None, 0, 0))(named, inputs, targets)
        return torch.cat([grads[name].reshape(len(inputs), -1) for name in named], dim=1)

    def displaced(self) -> AbstractContextManager[Callable[[Tensor], None]]:
        """A context in which `move(e)` sets the variables x to x + e, e of shape (P,); see `core.displaced`."""
        return displaced(self.parameters)

    def _read(self) -> Iterator[tuple[Tensor, Tensor]]:
        start = self._size * self.world.rank // self.world.size
        stop = self._size * (self.world.rank + 1) // self.world.size
        kept: list[tuple[Tensor, Tensor]] = []
        held = 0
        for batch in self._loader.slices(start, stop, self.batch_size):
            held += 0 if isinstance(self.data, tuple) else sum(tensor.nbytes for tensor in batch)
            if held <= CACHE_BYTES:
                kept.append(batch)
            yield batch
        if held <= CACHE_BYTES:
            self._cache = kept

    def _examine(self) -> None:
        if self._is_examined:
            return
        require_finite_weights(self.model)
        inputs, targets = next(iter(self.batches()), (None, None))
        if inputs is not None and targets is not None:
            mode = "batch" if self.batch_norm == "batch" else "running"
            few = inputs[:EXAMINED_SAMPLES], targets[:EXAMINED_SAMPLES]
            with batch_norm_mode(self.model, mode), counting_activations(self.model) as count:
                passes = require_repeatable(
                    self.model, lambda: weigh(self.loss(self.model(few[0]), few[1]), len(few[0]))[0]
                )
            self._activations = count.entries / (passes * len(few[0]))
        self._is_examined = True


def _variables(model: nn.Module, patterns: str | Sequence[str] | None) -> dict[str, Tensor]:
    """The parameters that require gradients and match, by name."""
    named: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError("model: expected at least one parameter that requires a gradient, got none")
    if patterns is None:
        return named
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    idle = [pattern for pattern in wanted if not any(fnmatchcase(name, pattern) for name in named)]
    if idle or not wanted:
        raise ValueError(
            f"parameters: no name matches {', '.join(map(repr, idle)) or 'an empty list'}: "
            f"expected names or patterns of {', '.join(named)}"
        )
    return {name: p for name, p in named.items() if any(fnmatchcase(name, pattern) for pattern in wanted)}
