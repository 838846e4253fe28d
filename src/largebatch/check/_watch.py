"""The check inside a run that goes on: the first updates of somebody's real training, judged over all its ranks."""

import io
from contextlib import ExitStack
from typing import Any, final

import torch
from torch import Tensor, nn

from largebatch.check._assemble import assemble
from largebatch.core import World, current_world
from largebatch.culprits import CheckResult, judge
from largebatch.recording import Recorder, lightning_watched
from largebatch.replay import ModelLoss, Reference, unwrapped

__all__ = ["Watch"]


@final
class Watch:
    """Records this process from now until `finish`. Only what needs no second run can be found.

        watch = check.Watch()
        watch.model(model)          # or .reference(...), or .lightning(module)
        ...                         # until watch.updates is at least 1: a GradScaler may skip the first steps
        print(watch.finish().text())

    Args:
        gradients: of the first updates that are held against the reference.
    """

    def __init__(self, gradients: int = 1):
        self._recorder = Recorder(gradients=gradients, stops=False)
        self._stack = ExitStack()
        self._stack.enter_context(self._recorder.installed())

    @property
    def updates(self) -> int:
        """Updates so far; steps that a GradScaler skipped are none."""
        return self._recorder.updates

    def reference(self, reference: Reference) -> None:
        """Hold the gradients against this reference."""
        self._recorder.watch(reference)

    def model(self, model: nn.Module) -> None:
        """A model whose output has a mean `loss`, as those of transformers have."""
        self._recorder.watch(ModelLoss(unwrapped(model)))

    def lightning(self, module: nn.Module) -> None:
        """A Lightning module, by its `training_step`."""
        self._stack.enter_context(lightning_watched(module, self._recorder))

    def close(self) -> None:
        """Leave this process as it was, without a verdict; needs no other rank."""
        self._stack.close()

    def finish(self) -> CheckResult:
        """Leave this process as it was, and judge. On several ranks all must call it, whatever each of them saw."""
        self.close()
        world = current_world()
        records = _from_all_ranks(self._recorder.record(), world, self._recorder.device)
        idle = [str(rank) for rank, record in enumerate(records) if not record["updates"]]
        if idle:
            who = f"worker {', '.join(idle)} made no update" if len(idle) < len(records) else "no update was seen"
            problem = next((f": {record['problem']}" for record in records if record["problem"]), "")
            return CheckResult("error", reason=f"{who} while it watched{problem}", workers=world.size)
        return judge(assemble(records))


def _from_all_ranks(record: dict[str, Any], world: World, device: torch.device) -> list[dict[str, Any]]:
    """Every rank's record, on every rank. On the model's device, where the ranks can talk: NCCL cannot on the CPU."""
    buffer = io.BytesIO()
    torch.save(record, buffer)
    own = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8).to(device)
    lengths = world.gather(torch.tensor([len(own)], device=device))
    parts: tuple[Tensor, ...] = world.gather(own).cpu().split(lengths.tolist())
    return [torch.load(io.BytesIO(part.numpy().tobytes()), weights_only=True) for part in parts]
