"""The ranks' own records put together: update t of all ranks is one update of the run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from largebatch.culprits import Clip, Epoch, Evidence, FirstStep, MicroBatch, Parameter, Step, Update, reduced

__all__ = ["assemble"]

Record = Mapping[str, Any]


def assemble(records: Sequence[Record]) -> Evidence:
    """The evidence of a run from each rank's record, as `Recorder.record` gives them in the order of ranks.

    Processes that joined no process group are copies of one run: the first one's record stands for all.
    """
    replicas = len(records)
    is_distributed = all(record["world_size"] > 1 for record in records) and replicas > 1
    used = records if is_distributed else records[:1]
    first = used[0]
    return Evidence(
        world_size=len(used),
        updates=tuple(_update(number, parts) for number, parts in enumerate(_aligned(used), start=1)),
        epochs=tuple(
            Epoch(rank, epoch["number"], tuple(epoch["indices"]), epoch["is_complete"])
            for rank, record in enumerate(used)
            for epoch in record["epochs"]
        ),
        parameters=tuple(Parameter(**parameter) for parameter in first["parameters"]),
        first_steps=tuple(FirstStep(**step) for step in first["first_steps"]),
        optimizer=first["optimizer"],
        data_size=max(record["data_size"] for record in used),
        with_replacement=any(record["with_replacement"] for record in used),
        population=_population(used),
        has_own_sampler=any(record["has_own_sampler"] for record in used),
        has_batch_norm=first["has_batch_norm"],
        unit="tokens" if _counts_tokens(first) else "samples",
        is_distributed=is_distributed,
        replicas=replicas,
    )


def _population(records: Sequence[Record]) -> tuple[int, ...]:
    """What all ranks' samplers draw from; () if one of them draws from everything."""
    each = [record["population"] for record in records]
    return tuple(sorted({index for indices in each for index in indices})) if all(each) else ()


def _aligned(records: Sequence[Record]) -> list[list[tuple[int, Mapping[str, Any]]]]:
    """For every update, (rank, what that rank did in it) of the ranks that took part."""
    most = max(len(record["updates"]) for record in records)
    return [
        [(rank, record["updates"][i]) for rank, record in enumerate(records) if i < len(record["updates"])]
        for i in range(most)
    ]


def _counts_tokens(record: Record) -> bool:
    return any(part["count"] != part["samples"] for update in record["updates"] for part in update["micro_batches"])


def _update(number: int, parts: Sequence[tuple[int, Mapping[str, Any]]]) -> Update:
    micro_batches = tuple(
        MicroBatch(rank, part["count"], part["samples"], tuple(part["indices"]), part["content"], tuple(part["noise"]))
        for rank, update in parts
        for part in update["micro_batches"]
    )
    applied, sums, weights, previous = _vectors(parts)
    tolerance = max(update["tolerance"] for _, update in parts)
    gradients = [update["applied"] for _, update in parts if "applied" in update]
    return Update(
        number=number,
        epoch=parts[0][1]["epoch"],
        micro_batches=micro_batches,
        steps=tuple(_step(rank, update["step"]) for rank, update in parts),
        applied=applied,
        sums=sums,
        weights=weights,
        previous=previous,
        is_moved=any(update["is_moved"] for _, update in parts),
        is_joint=any(update["is_joint"] for _, update in parts),
        is_averaged=len(gradients) == len(parts) and _spread(gradients) <= tolerance,
        spread=_spread([update["weights"] for _, update in parts if "weights" in update]),
        tolerance=tolerance,
    )


def _step(rank: int, step: Mapping[str, Any]) -> Step:
    return Step(
        rank,
        rates=tuple(step["rates"]),
        momenta=tuple(step["momenta"]),
        buffer_drift=step["buffer_drift"],
        scheduler_calls=tuple(step["scheduler_calls"]),
        clips=tuple(Clip(**clip) for clip in step["clips"]),
        loss_scale=step["loss_scale"],
        without_gradient=tuple(step["without_gradient"]),
    )


def _vectors(parts: Sequence[tuple[int, Mapping[str, Any]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates of what was applied, the sums, the weights and the update before; empty where a rank replayed nothing."""
    if not all(update["sums"] for _, update in parts):
        return np.zeros((len(parts), 0)), np.zeros((0, 0)), np.zeros((2, 0)), np.zeros(0)
    applied = [update.get("raw", update["applied"]) for _, update in parts]
    sums = [vector for _, update in parts for vector in update["sums"]]
    first = parts[0][1]
    weights, vectors = first["weights"], first["is_vector"]
    previous = first["previous"] if first["previous"] is not None else torch.zeros_like(weights)
    rows = [*applied, *sums, weights * ~vectors, weights * vectors, previous]
    if not all(bool(row.isfinite().all()) for row in rows):  # diverged: nothing to compare
        return np.zeros((len(parts), 0)), np.zeros((0, 0)), np.zeros((2, 0)), np.zeros(0)
    found = reduced([row.double().numpy() for row in rows])
    cuts = np.cumsum([len(applied), len(sums), 2])
    blocks = np.split(found, cuts)
    return blocks[0], blocks[1], blocks[2], blocks[3][0]


def _spread(vectors: Sequence[Tensor]) -> float:
    """Largest distance from the first rank's vector, relative to its norm."""
    if len(vectors) < 2:
        return 0.0
    base = vectors[0].double()
    return max(float((vector.double() - base).norm() / base.norm().clamp_min(1e-300)) for vector in vectors[1:])
