"""One pass of somebody's training loop: what it read, as it was made, and made again for the gradient of its summed loss."""

from largebatch.replay._coordinates import Coordinates
from largebatch.replay._passes import Pass, begin_pass
from largebatch.replay._patches import replaced
from largebatch.replay._reference import (
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
from largebatch.replay._samples import Origin, SampleLog

__all__ = [
    "Coordinates",
    "ModelLoss",
    "Origin",
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
