"""The torch nouns: tasks, risks, ghosts, ranks, seeds, observers, checkpoints."""

from largebatch.core._batchnorm import GhostBatchNorm, has_batch_norm, swap_batchnorm
from largebatch.core._checkpoint import (
    Checkpoint,
    discard_checkpoints,
    latest_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from largebatch.core._collective import GradientSum, World, current_world, world_from_environment
from largebatch.core._dropout import KeyedDropout, swap_dropout
from largebatch.core._example_norms import ExampleGradients
from largebatch.core._loading import Loader
from largebatch.core._measurement import Measured, Measurement, Stopwatch, stopwatch
from largebatch.core._memory import free_bytes, is_out_of_memory
from largebatch.core._observe import EpochView, Observer, Partials, Request, View
from largebatch.core._params import displaced, distance_, flatten, squared_norm, unflatten
from largebatch.core._progress import progress
from largebatch.core._risk import Risk
from largebatch.core._sampler import cut, ghost_sizes, permutation, rank_share
from largebatch.core._seeds import derive, generator, seed_default, uniform_per_sample
from largebatch.core._statistics import (
    BatchNormMode,
    batch_norm_mode,
    commit_statistics,
    coupled_layers,
    discard_statistics,
    frozen_statistics,
    pending_statistics,
    reestimate,
    spare_statistics,
)
from largebatch.core._task import (
    Data,
    Loss,
    Metric,
    Task,
    accuracy,
    cross_entropy,
    data_size,
    token_cross_entropy,
    total,
    weigh,
)

__all__ = [
    "BatchNormMode",
    "Checkpoint",
    "Data",
    "EpochView",
    "ExampleGradients",
    "GhostBatchNorm",
    "GradientSum",
    "KeyedDropout",
    "Loader",
    "Loss",
    "Measured",
    "Measurement",
    "Metric",
    "Observer",
    "Partials",
    "Request",
    "Risk",
    "Stopwatch",
    "Task",
    "View",
    "World",
    "accuracy",
    "batch_norm_mode",
    "commit_statistics",
    "coupled_layers",
    "cross_entropy",
    "current_world",
    "cut",
    "data_size",
    "derive",
    "discard_checkpoints",
    "discard_statistics",
    "displaced",
    "distance_",
    "flatten",
    "free_bytes",
    "frozen_statistics",
    "generator",
    "ghost_sizes",
    "has_batch_norm",
    "is_out_of_memory",
    "latest_checkpoint",
    "pending_statistics",
    "permutation",
    "progress",
    "prune_checkpoints",
    "rank_share",
    "read_checkpoint",
    "reestimate",
    "seed_default",
    "spare_statistics",
    "squared_norm",
    "stopwatch",
    "swap_batchnorm",
    "swap_dropout",
    "token_cross_entropy",
    "total",
    "unflatten",
    "uniform_per_sample",
    "weigh",
    "world_from_environment",
    "write_checkpoint",
]
