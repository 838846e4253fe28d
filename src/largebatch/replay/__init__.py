"""Replay: run one forward pass of somebody's loop again, with the inputs and random state it had, for its exact gradient."""

from largebatch.replay._coordinates import Coordinates
from largebatch.replay._passes import Pass, begin_pass
from largebatch.replay._patches import replaced
from largebatch.replay._reference import (
    ExampleLoss,
    ModelLoss,
    Reference,
    StepLoss,
    is_sharded,
    listen,
    reference,
    tensors_in,
    unwrapped,
)
from largebatch.replay._replay import replay
from largebatch.replay._samples import SampleLog

__all__ = [
    "Coordinates",
    "ExampleLoss",
    "ModelLoss",
    "Pass",
    "Reference",
    "SampleLog",
    "StepLoss",
    "begin_pass",
    "is_sharded",
    "listen",
    "reference",
    "replaced",
    "replay",
    "tensors_in",
    "unwrapped",
]
