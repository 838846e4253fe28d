"""`check.loop`: run a training loop under the recorder, and judge it.

Where one run cannot tell two causes apart, it is run again in another way.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from largebatch.check._assemble import assemble
from largebatch.check._launch import Launched, run_workers
from largebatch.culprits import CheckResult, judge

__all__ = ["loop"]

HOW_TO_TELL = (
    "the loss is not known: no Lightning or HF Trainer was found. Tell it in the script, before training:\n"
    "  from largebatch import check, core\n"
    "  check.reference(model, dataset, core.cross_entropy)   # any (outputs, targets) -> one value per example"
)


def loop(
    target: str | Path | Callable[..., Any],
    *arguments: str,
    workers: int = 2,
    compare: bool = True,
    updates: int = 100,
    gradients: int = 8,
    timeout_seconds: float = 60.0,
) -> CheckResult:
    """Does a training loop compute the gradient it should? One line in a test suite:

        def test_my_loop():
            result = check.loop("train.py", "--epochs", "2")
            assert result.passed, result.text()

    The loop runs in processes of its own, on CPUs and gloo, and is stopped as soon as enough was seen.

    Args:
        target: a script, or a function that can be reached by its name in its file and takes `arguments`.
        arguments: the script's.
        workers: processes, as torchrun's --nproc-per-node.
        compare: run again with one worker (or another number), to tell causes apart and to see what changes with it.
        updates: watched at most; the epoch is then cut short to see the next one begin.
        gradients: of the first updates that are held against the reference, beside those at the end of an epoch.
        timeout_seconds: a run without progress for so long has hung.

    Returns:
        The verdict; "error" with a reason where the loop could not be checked.

    Raises:
        ValueError: a setting is out of range, or the target cannot be found; all mistakes together.
    """
    name, mistakes = _named(target)
    mistakes += [f"{what}: expected at least 1, got {value}" for what, value in
                 (("workers", workers), ("updates", updates), ("gradients", gradients)) if value < 1]  # fmt: skip
    if timeout_seconds <= 0:
        mistakes.append(f"timeout: expected more than 0 seconds, got {timeout_seconds:g}")
    if mistakes:
        raise ValueError("\n".join(mistakes))

    def run(size: int) -> Launched:
        return run_workers(
            name, arguments, size, updates=updates, gradients=gradients, timeout_seconds=timeout_seconds
        )  # fmt: skip

    launched = run(workers)
    reason = launched.reason or _nothing_seen(name, launched.records)
    if reason:
        return CheckResult("error", reason=reason, workers=workers)
    evidence = assemble(launched.records)
    result = judge(evidence, notes=_unseen(launched.records, updates))
    if not compare or not evidence.is_distributed:
        return result
    is_open = any(finding.others for finding in result.findings)
    why = ""
    for size in [1, workers + 1] if is_open else [1]:
        again = run(size)
        why = again.reason or _nothing_seen(name, again.records)
        if not why:
            return judge(evidence, assemble(again.records), _unseen(launched.records, updates))
    note = f"no second run at another number of workers, so nothing was compared: {why.splitlines()[0]}"
    return judge(evidence, notes=(*_unseen(launched.records, updates), note))


def _named(target: str | Path | Callable[..., Any]) -> tuple[str, list[str]]:
    """The target as a child process finds it."""
    if callable(target):
        name, file = getattr(target, "__qualname__", ""), inspect.getsourcefile(target)
        if not name.isidentifier() or file is None:
            return "", [f"target: expected a function at the top of a file, got {name or target}; move it there"]
        return f"{file}:{name}", []
    path = str(target).rpartition(":")[0] if ".py:" in str(target) else str(target)
    if not Path(path).is_file():
        return "", [f"script: expected a Python file, got {path}, which does not exist here"]
    return str(target), []


def _nothing_seen(name: str, records: Sequence[dict[str, Any]]) -> str:
    """Why a run that ended well cannot be judged; "" if it can."""
    first = records[0]
    path = Path(name.rpartition(":")[0] if ".py:" in name else name)
    if not first["steps"]:
        text = path.read_text(errors="replace")
        if not any(word in text for word in ("torch", "lightning", "transformers", "accelerate")):
            return f"{path} mentions no PyTorch: a training loop on torch.optim is needed"
        return f"{path} ran to its end and no torch optimizer stepped; does it train with these arguments?"
    if not first["has_reference"]:
        return HOW_TO_TELL
    if first["problem"] and not any(update["sums"] for update in first["updates"]):
        return f"no gradient could be replayed: {first['problem']}"
    if not first["updates"]:
        return (
            f"{first['steps']} steps were made, but none after a backward pass through the model given to "
            "check.reference: give it the model that is trained, before training (a Lightning module with manual "
            "optimization steps inside its training_step, which cannot be replayed: check its loss in a plain loop)"
        )
    return ""


def _unseen(records: Sequence[dict[str, Any]], updates: int) -> tuple[str, ...]:
    """What the run did not get to see."""
    first = records[0]
    epochs = first["epochs"]
    notes = [f"not every gradient could be replayed: {first['problem']}"] if first["problem"] else []
    if not epochs and first["loaders"]:
        notes.append(
            "the data set gives no indices (an iterable one has none), so the order of the samples was not checked"
        )
    elif not epochs:
        notes.append("no DataLoader was seen, so the order of the samples was not checked")
    elif not epochs[0]["is_complete"]:
        notes.append(
            f"the epoch is longer than {updates} updates: its end (a short last window) was not seen; see --updates"
        )
    if epochs and len(epochs) < 2:
        notes.append("the script ended within one epoch: whether the next one is reshuffled was not seen")
    return tuple(notes)
