"""One graph per batch, kept between products while memory allows.

The second backward pass of Pearlmutter's product (1994, Neural Computation 6) needs the graph of the first. Kept, a product
costs 2 units of one forward and backward pass; built anew, 3. How much a graph holds is counted on a few samples by the
hooks through which autograd saves its tensors, and compared with the memory that is free. Weights that moved since, by
their version counters and their norm, make the graphs void.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Literal, TypeVar, final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from largebatch.core import Risk, free_bytes, is_out_of_memory, squared_norm, unflatten

__all__ = ["Graphs", "KeepGraph", "gradient_graph", "twice_differentiable"]

KeepGraph = Literal["auto"] | bool

Graph = TypeVar("Graph")

SHARE = 0.5  # of the free memory: the solver's own vectors need some, and the estimate is one
COUNTED_SAMPLES = 32
PASS_SAMPLES = 256
OUTWEIGHED = 6.0  # as in a risk: a product with F1 takes 2.06 passes in 4 graphs, 2.01 in 2, 2.09 in one


@final
class Graphs(Generic[Graph]):
    """What `build` makes of each batch, and sums over all batches and ranks of what is computed from it.

    Args:
        build: maps (inputs, targets) to a graph and the batch's weight, in one forward and backward pass.
        keep: False never, True always, "auto" while it fits into half of the free memory.
    """

    def __init__(
        self, risk: Risk, build: Callable[[Tensor, Tensor], tuple[Graph, Tensor | int]], keep: KeepGraph = "auto"
    ):
        self.risk = risk
        self.keep = keep
        self._build = build
        self._state: object = None
        self._kept: list[Graph] = []
        self._is_keeping = False
        self._weight: Tensor | None = None  # over all ranks, known after the first pass

    @property
    def is_kept(self) -> bool:
        """Whether the next product will find its graphs, if the weights stay."""
        return self._is_keeping and self._weight is not None

    def mean(self, term: Callable[[Graph], Sequence[Tensor]], passes: float) -> Tensor:
        """Σ over batches and ranks of `term`, shaped as the parameters, ÷ the total weight, (P,).

        Args:
            term: of one batch; it must not free the graph.
            passes: what the terms cost beside the graphs, in forward and backward passes over the data.

        Raises:
            RuntimeError: out of memory with the graph of one batch.
        """
        risk = self.risk
        state = _state(risk)
        if state != self._state:
            self._state, self._kept, self._is_keeping, self._weight = state, [], self.keep is not False, None
        try:
            return self._sum(term, passes)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            # Re-estimated statistics are summed over the ranks: one rank alone must not start again.
            is_alone = risk.world.size == 1 or risk.batch_norm != "reestimated"
            if not is_out_of_memory(error) or not (self._is_keeping and is_alone):
                raise _advised(error, risk.batch_size) from error
        self._kept, self._is_keeping = [], False
        return self.mean(term, passes)

    def _sum(self, term: Callable[[Graph], Sequence[Tensor]], passes: float) -> Tensor:
        risk = self.risk
        total = torch.zeros(risk.dimension, dtype=risk.dtype, device=risk.device)
        parts = unflatten(total, risk.parameters)

        def add(graph: Graph) -> None:
            torch._foreach_add_(parts, list(term(graph)))

        risk.passes += passes
        if self.is_kept:
            for graph in self._kept:
                add(graph)
        else:
            self._build_each(add)
        assert self._weight is not None
        return risk.world.sum(total).div_(self._weight.to(total.dtype))

    def _build_each(self, add: Callable[[Graph], None]) -> None:
        risk = self.risk
        sums = torch.zeros(2, dtype=torch.float64, device=risk.device)  # weight; ranks that cannot keep their graphs
        self._kept = []
        risk.passes += 1.0
        with risk.measuring(), twice_differentiable():
            for number, (inputs, targets) in enumerate(risk.pieces(PASS_SAMPLES, OUTWEIGHED)):
                if number == 0 and self._is_keeping and self.keep == "auto":
                    self._is_keeping = self._fits(inputs, targets)
                graph, weight = self._build(inputs, targets)
                if self._is_keeping:
                    self._kept.append(graph)
                add(graph)
                sums[0] += weight
        if self._weight is None:
            sums[1] = 0.0 if self._is_keeping else 1.0
            self._weight, misfits = risk.world.sum(sums).split(1)
            if misfits:
                self._kept, self._is_keeping = [], False

    def _fits(self, inputs: Tensor, targets: Tensor) -> bool:
        risk, few = self.risk, min(COUNTED_SAMPLES, len(inputs))
        held = _saved_bytes(risk, (inputs, targets), lambda: self._build(inputs[:few], targets[:few]))
        risk.passes += few * risk.world.size / risk.samples
        graphs = -(-risk.samples // risk.piece_size(PASS_SAMPLES, OUTWEIGHED))
        gradients = graphs * sum(p.nbytes for p in risk.parameters)
        needed = held / few * risk.samples + gradients  # of all ranks: one machine, perhaps
        return needed <= SHARE * free_bytes(risk.device)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Gradients on, and attention written out: its fused kernels have no second derivative, on a CPU either."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def gradient_graph(
    outputs: Tensor, variables: Sequence[Tensor], cotangent: Tensor | None = None
) -> list[Tensor | None]:
    """The gradient by each variable with its own graph; None where it is constant, so that nothing is left to derive."""
    if not outputs.requires_grad:
        return [None] * len(variables)
    grads = torch.autograd.grad(outputs, variables, cotangent, create_graph=True, allow_unused=True)
    return [g if g is not None and g.requires_grad else None for g in grads]


def _advised(error: BaseException, batch_size: int) -> BaseException:
    if not is_out_of_memory(error):
        return error
    return RuntimeError(
        f"out of memory with the graph of a batch of {batch_size} samples: use a smaller batch_size of the risk; with "
        "running batch-norm statistics it changes the memory, not the value"
    )


def _saved_bytes(risk: Risk, data: tuple[Tensor, Tensor], build: Callable[[], object]) -> int:
    """Bytes that the graph of `build()` holds beside the model's own tensors and the data, which are there anyway."""
    owned = (*risk.model.parameters(), *risk.model.buffers(), *data)
    own = {tensor.untyped_storage().data_ptr() for tensor in owned}
    found: dict[int, int] = {}

    def see(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        graph = build()
    del graph
    return sum(found.values())


def _state(risk: Risk) -> object:
    """Changes whenever the model does: by counters, and by the norm for writes through `.data`, which count nothing."""
    tensors = (*risk.model.parameters(), *risk.model.buffers())
    with torch.no_grad():
        norm = float(squared_norm([p.detach() for p in risk.parameters]))
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors], norm
