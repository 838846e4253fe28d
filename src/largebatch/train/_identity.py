"""Who a run is: the digest of what decides its result. Work done is never done again, and stale work never used."""

import hashlib
import inspect
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

import largebatch
from largebatch.core import Data, Loader, Task, data_size, derive
from largebatch.recipe import Recipe
from largebatch.results import run_digest

__all__ = ["build_model", "data_digests", "identity"]

HASHED_BYTES = 1 << 24  # a piece of a tensor
PROBED_ITEMS = 64  # of a data set on disk: hashing all of ImageNet would take longer than many runs


def build_model(task: Task, seed: int) -> nn.Module:
    """The initial model: depends on the task's factory and the seed alone, so runs that differ otherwise pair."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(seed, "weights"))
        model = task.model()
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"task {task.name}: expected `model` to be a factory that returns an nn.Module, got {type(model).__name__}"
        )
    return model


def data_digests(task: Task) -> dict[str, str | None]:
    """Of each split; None where the task has none."""
    splits = {"train": task.train, "test": task.test, "validation": task.validation}
    return {name: None if data is None else _data_digest(data) for name, data in splits.items()}


def identity(
    task: Task, recipe: Recipe, seed: int, model: nn.Module, *, data: Mapping[str, str | None] | None = None
) -> str:
    """Digest of the task's source, data, initial weights, recipe, seed and the package's version.

    Args:
        data: what `data_digests` found, where many runs have the same task.
    """
    weights = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        weights.update(name.encode())
        _add_tensor(weights, tensor)
    splits = data_digests(task) if data is None else data
    recipe_fields = recipe.to_json(with_changes=False)
    return run_digest(
        task=task.name,
        source=task.source or _source_of(task),
        layers=_layers_of(model),
        train=splits["train"],
        test=splits["test"],
        validation=splits["validation"],
        weights=weights.hexdigest(),
        recipe=recipe_fields,
        seed=seed,
        version=largebatch.__version__,
    )


def _source_of(task: Task) -> str:
    return "\n".join(_source(function) for function in (task.model, task.loss, *task.metrics.values()))


def _layers_of(model: nn.Module) -> list[str]:
    """Every layer, with its settings and the source of its class: equal weights can compute different functions.

    torch's own classes are named only; the user's may stand in another file than the task.
    """
    kinds = {type(module) for module in model.modules() if not type(module).__module__.startswith("torch.")}
    sources = sorted(_source(kind) for kind in kinds)
    return [repr(model), *sources]


def _source(thing: object) -> str:
    try:
        return inspect.getsource(thing)  # pyright: ignore[reportArgumentType]
    except (OSError, TypeError):  # built in a shell, or a partial
        return getattr(thing, "__qualname__", type(thing).__qualname__)


def _data_digest(data: Data) -> str:
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(data, tuple):
        for tensor in data:
            _add_tensor(digest, tensor)
    else:
        size = data_size(data)
        digest.update(f"{type(data).__qualname__} {size}".encode())
        probed = torch.arange(0, size, max(1, size // PROBED_ITEMS))
        # Through the loader, which seeds every generator a transform may draw from, and restores them.
        for tensors in Loader(data, torch.device("cpu")).batches([probed], epoch=0):
            for tensor in tensors:
                _add_tensor(digest, tensor)
    return digest.hexdigest()


def _add_tensor(digest: hashlib.blake2b, tensor: Tensor) -> None:
    """A tensor's digest is that of its pieces': they are hashed side by side, as hashing lets other threads run."""
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    pieces = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).split(HASHED_BYTES)
    if len(pieces) == 1:  # to start threads would take longer
        digest.update(_piece_digest(pieces[0]))
        return
    with ThreadPoolExecutor() as threads:
        for piece in threads.map(_piece_digest, pieces):
            digest.update(piece)


def _piece_digest(piece: Tensor) -> bytes:
    return hashlib.blake2b(piece.numpy().data).digest()
