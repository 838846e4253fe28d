"""Train with large batches without losing accuracy, and know why when you do lose it.

The verb is the namespace: `largebatch.train`, `largebatch.recipe`, ... Importing this package loads no torch.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
