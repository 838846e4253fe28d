"""Many gallery loops inside one set of processes: each is watched by a recorder of its own."""

import os
from pathlib import Path

import torch
import torch.distributed as dist

from largebatch.check._assemble import assemble
from largebatch.check._child import observe
from largebatch.core import world_from_environment
from largebatch.recording import Recorder
from ranks import run_ranks

GALLERY = Path(__file__).parent / "gallery"


def evidence(loops, size, **settings):
    """The evidence of every loop, `(script, argument, …)`, on `size` ranks; a text where it could not be had."""
    records = run_ranks(_observe_all, size, [tuple(map(str, words)) for words in loops], size, settings)
    return [
        of_ranks[0] if isinstance(of_ranks[0], str) else assemble(of_ranks) for of_ranks in zip(*records, strict=True)
    ]


def _observe_all(loops, size, settings):
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT="29500", LOCAL_WORLD_SIZE=str(size), TORCHELASTIC_RUN_ID="x"
    )  # what trainers look for
    if size == 1:
        dist.init_process_group("gloo", init_method=os.environ["LARGEBATCH_RENDEZVOUS"], rank=0, world_size=1)
    with world_from_environment(torch.device("cpu")):
        return [_observe(words, settings) for words in loops]


def _observe(words, settings):
    recorder = Recorder(**settings)
    outcome = observe(str(GALLERY / words[0]), list(words[1:]), recorder)
    if outcome["how"] not in ("enough", "ended"):
        return f"{words}: {outcome}"
    return recorder.record()
