"""What somebody's training loop did: samples read, passes made, gradients applied, from hooks that any loop runs into."""

from largebatch.recording._frameworks import lightning_watched
from largebatch.recording._record import Enough, Recorder

__all__ = [
    "Enough",
    "Recorder",
    "lightning_watched",
]
