"""Which samples a loop read: every DataLoader's index lists, and the way from a tensor back to its samples.

Batches leave a DataLoader in the order of their index lists, whatever the number of workers or how far a trainer
prefetches. A model's input is traced to its batch by its memory (slices share it), else by order: to the newest batch, if no
other could be meant.
"""

import math
import sys
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast, final

from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils.fetch import _MapDatasetFetcher
from torch.utils.data.dataloader import _BaseDataLoaderIter

from largebatch.replay._patches import replaced
from largebatch.replay._random_states import drawn_from, kept_random_state, random_state_digests
from largebatch.replay._reference import tensors_in
from largebatch.replay._samplers import described_sampler, size_of

__all__ = ["Batch", "Origin", "Reading", "SampleLog"]

KEPT_BATCHES = 16  # batches a trainer may hold before it uses them
PREFETCHING = ("accelerate", "lightning", "pytorch_lightning")  # they use batches in order, some later
AMBIGUOUS = (
    "the model's input is no part of a batch as its loader gave it, and several batches could be its source, so that its "
    "targets are not known; transform samples in the data set, or take one batch at a time from one loader"
)


@final
class Reading:
    """One pass over a loader: what it was asked for and gave."""

    def __init__(self, loader: "DataLoader[Any]", iterator: Any):
        self.loader = loader
        self.is_over = False
        self.is_prefetched = False
        self._iterator = weakref.ref(iterator)
        self.number = 0  # the epoch, from 1, once a model was trained on it
        self.asked: deque[tuple[int, ...]] = deque()
        self.indices: list[int] = []
        self.batches = 0
        self.is_complete = False

    @property
    def is_alive(self) -> bool:
        """Whether somebody may still take batches from it; a peek at the first batch is gone at once."""
        iterator = self._iterator()
        return not self.is_over and iterator is not None and iterator.__dict__.get("_largebatch_reading") is self

    @property
    def remaining(self) -> float:
        """Batches still to come; infinite where the loader cannot tell."""
        try:
            return len(self.loader) - self.batches
        except TypeError:
            return math.inf


@final
class Batch:
    """What a loader gave, kept until it has been used."""

    def __init__(
        self, content: Any, reading: Reading, indices: tuple[int, ...], noise: tuple[str, ...], number: int = 0
    ):
        self.content = content
        self.number = number  # of all batches of this process
        self.reading = reading
        self.indices = indices
        self.noise = noise
        self.tensors = {t.untyped_storage().data_ptr(): t for t in tensors_in(content) if t.dim() > 0}
        self.size = max((len(t) for t in self.tensors.values()), default=0)
        self.used = 0  # rows


@final
class Origin:
    """Where a model's input came from: rows of a batch."""

    def __init__(self, batch: Batch, first: int, rows: int):
        self.batch = batch
        self.rows = slice(first, first + rows)

    @property
    def indices(self) -> tuple[int, ...]:
        """Positions in the data set; () where the loader has none."""
        return self.batch.indices[self.rows]

    @property
    def targets(self) -> Any:
        """What the batch holds beside the inputs, for these rows."""
        content = self.batch.content
        if isinstance(content, Mapping):
            return self._cut(content)
        items = tuple(cast(Sequence[Any], content)) if isinstance(content, tuple | list) else (content,)
        rest = items[1:] or items  # one tensor alone is its own target
        return self._cut(rest[0] if len(rest) == 1 else rest)

    def _cut(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[self.rows] if value.dim() and len(value) == self.batch.size else value
        if isinstance(value, Mapping):
            return {key: self._cut(item) for key, item in cast(Mapping[Any, Any], value).items()}
        if isinstance(value, tuple | list):
            return tuple(self._cut(item) for item in cast(Sequence[Any], value))
        return value


@final
class SampleLog:
    """Watches every DataLoader of this process while installed."""

    def __init__(self) -> None:
        self.is_ending = False
        """Loaders end their epoch early, so that the next one begins."""
        self.training: list[Reading] = []
        """The readings that were trained on, one an epoch."""
        self._loaders: dict[int, DataLoader[Any]] = {}  # by their index sampler, which iterators know
        self._is_random: bool | None = None
        self._kept: deque[Batch] = deque(maxlen=KEPT_BATCHES)
        self._noise: tuple[str, ...] = ()
        self._given = 0  # batches
        self._passed = 0  # the newest batch at the last trace
        self._current: Reading | None = None  # the one last asked for a batch
        self.doubt = ""
        """Why the last pass could not be traced, if several batches could be meant."""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, loaders are watched."""
        with (
            replaced(DataLoader, "__iter__", self._begin),
            replaced(_BaseDataLoaderIter, "_next_index", self._ask),
            replaced(_BaseDataLoaderIter, "__next__", self._give),
            replaced(_MapDatasetFetcher, "fetch", self._fetch),
        ):
            yield

    def trace(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: int) -> Origin | None:
        """The batch rows that a pass was given."""
        self.doubt = ""
        origin = self._by_memory((*args, *kwargs.values()), rows) or self._by_order(rows)
        self._passed = self._given
        if origin is not None:
            origin.batch.used = max(origin.batch.used, origin.rows.stop)
        return origin

    def trained_on(self, origin: Origin | None) -> None:
        """A backward pass came through these rows; an evaluation has none."""
        if origin is not None and not origin.batch.reading.number:
            self.training.append(origin.batch.reading)
            origin.batch.reading.number = len(self.training)

    def described(self) -> dict[str, Any]:
        """What was read in each epoch, and of which data."""
        loader = self.training[0].loader if self.training else None
        return {
            "epochs": [
                {"number": reading.number, "indices": list(reading.indices), "is_complete": reading.is_complete}
                for reading in self.training
                if reading.indices
            ],
            "loaders": len(self.training),
            "data_size": size_of(loader),
            **described_sampler(loader),
        }

    def _by_memory(self, values: Sequence[Any], rows: int) -> Origin | None:
        for tensor in tensors_in(list(values)):
            for batch in reversed(self._kept):
                base = batch.tensors.get(tensor.untyped_storage().data_ptr())
                if base is None or not tensor.dim() or not base.stride(0):
                    continue
                first = (tensor.data_ptr() - base.data_ptr()) // (base.stride(0) * base.element_size())
                return Origin(batch, first, rows)
        return None

    def _by_order(self, rows: int) -> Origin | None:
        """Of the reading last asked: the newest batch with rows left, or where a trainer reads ahead the oldest."""
        reading = self._current
        left = [batch for batch in self._kept if batch.size - batch.used >= rows and batch.used < batch.size]
        mine = [batch for batch in left if batch.reading is reading]
        if reading is None or not mine:
            return None
        if reading.is_prefetched:
            return Origin(mine[0], mine[0].used, rows)
        new = [batch for batch in left if batch.number > self._passed]
        rivals = [
            batch for batch in new if batch is not mine[-1] and (batch.reading is reading or batch.reading.is_alive)
        ]
        if rivals or not (mine[-1].used or mine[-1].number > self._passed):
            self.doubt = AMBIGUOUS
            return None
        return Origin(mine[-1], mine[-1].used, rows) if mine[-1].number == self._newest_of(reading) else None

    def _newest_of(self, reading: Reading) -> int:
        return max(batch.number for batch in self._kept if batch.reading is reading)

    # What stands in for torch's functions; `original` is the one it replaces.

    def _begin(self, original: Any, loader: "DataLoader[Any]") -> Any:
        self._loaders[id(loader._index_sampler)] = loader
        if loader._iterator is not None:  # persistent workers use one iterator for all epochs
            loader._iterator.__dict__.pop("_largebatch_reading", None)
        return original(loader)

    def _reading(self, iterator: Any) -> Reading | None:
        loader = self._loaders.get(id(iterator._index_sampler))
        if "_largebatch_reading" not in iterator.__dict__ and loader is not None:
            iterator._largebatch_reading = Reading(loader, iterator)
        return iterator.__dict__.get("_largebatch_reading")

    def _ask(self, original: Any, iterator: Any) -> Any:
        asked = original(iterator)
        reading = self._reading(iterator)
        if reading is not None:
            reading.asked.append(_as_indices(asked))
        return asked

    def _give(self, original: Any, iterator: Any) -> Any:
        reading = self._reading(iterator)
        if reading is None:
            return original(iterator)
        if self.is_ending and reading.batches > 0:
            raise StopIteration
        self._noise = ()
        self._current = reading
        reading.is_prefetched = _caller_of_next().partition(".")[0] in PREFETCHING
        try:
            content = original(iterator)
        except StopIteration:
            reading.is_complete = reading.is_over = True
            raise
        indices = reading.asked.popleft() if reading.asked else ()
        noise = self._noise if iterator._num_workers == 0 else self._noise_of_workers(iterator, reading, indices)
        reading.batches += 1
        reading.is_complete = reading.remaining == 0  # some trainers count and never ask for more
        reading.indices.extend(indices)
        self._given += 1
        self._kept.append(Batch(content, reading, indices, noise, self._given))
        return content

    def _fetch(self, original: Any, fetcher: Any, asked: Any) -> Any:
        if get_worker_info() is not None:
            return original(fetcher, asked)
        before = random_state_digests()
        content = original(fetcher, asked)
        self._noise = drawn_from(before)
        return content

    def _noise_of_workers(self, iterator: Any, reading: Reading, indices: tuple[int, ...]) -> tuple[str, ...]:
        """Loader workers seed themselves from the iterator's base seed; whether they draw is tried here once."""
        if reading.loader.worker_init_fn is not None:  # it may seed them anew
            return ()
        if self._is_random is None and indices:
            with kept_random_state():
                before = random_state_digests()
                reading.loader.dataset[indices[0]]
                self._is_random = bool(drawn_from(before))
        return (f"{iterator._base_seed}:{reading.batches}",) if self._is_random else ()


def _caller_of_next() -> str:
    """The module that asks for a batch: above the watcher's two frames and this one."""
    return str(sys._getframe(3).f_globals.get("__name__", ""))


def _as_indices(asked: Any) -> tuple[int, ...]:
    items = cast(Sequence[Any], asked) if isinstance(asked, list | tuple) else [asked]
    try:
        return tuple(int(item) for item in items)
    except (TypeError, ValueError):
        return ()
