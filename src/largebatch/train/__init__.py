"""Train a recipe at any batch, on any number of workers; and its parts, for loops of one's own."""

from largebatch.optimizers import LAMB, LARS, SAM, Proximal, RecipeScheduler, build_optimizer, build_scheduler
from largebatch.train._augment import build_augmentation
from largebatch.train._check import prepare
from largebatch.train._divergence import ADVICE, LossHistory, trivial_loss
from largebatch.train._execution import Execution
from largebatch.train._fit import checkpoint_interval, fit
from largebatch.train._identity import build_model, data_digests, identity
from largebatch.train._launch import launch, leave_with_parent
from largebatch.train._log import RunLog
from largebatch.train._preview import Preview, preview
from largebatch.train._run import Run
from largebatch.train._store import RunStore
from largebatch.train._tensorboard import TensorBoard

__all__ = [
    "ADVICE",
    "LAMB",
    "LARS",
    "SAM",
    "Execution",
    "LossHistory",
    "Preview",
    "Proximal",
    "RecipeScheduler",
    "Run",
    "RunLog",
    "RunStore",
    "TensorBoard",
    "build_augmentation",
    "build_model",
    "build_optimizer",
    "build_scheduler",
    "checkpoint_interval",
    "data_digests",
    "fit",
    "identity",
    "launch",
    "leave_with_parent",
    "prepare",
    "preview",
    "trivial_loss",
]
