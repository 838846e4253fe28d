"""largebatch inside other people's trainers: the recipe's schedule, ghost batch norm, noise scale, first-step check."""

from largebatch.integrations._lightning import lightning_callback
from largebatch.integrations._parts import Parts
from largebatch.integrations._transformers import transformers_callback

__all__ = ["Parts", "lightning_callback", "transformers_callback"]
