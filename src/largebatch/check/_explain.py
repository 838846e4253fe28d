"""Why a script could not be checked, in plain words: it crashed, it hung and where, it never stepped."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Outcome", "Place", "explain", "place"]

LAST_LINES = 12

LOST_CONNECTION = re.compile(r"gloo|[Cc]onnection (closed|reset|was)|Broken pipe|recvValue failed|DistNetworkError")

ADVICE = (
    (r"nccl|NCCL", "the check runs on CPUs: choose the backend by torch.cuda.is_available(), gloo where there is no GPU"),
    (r"CUDA|cuda", "the check runs on CPUs: choose the device by torch.cuda.is_available()"),
    (r"not marked as ready|did not receive grad|unused parameters|Expected to have finished reduction",
     "some parameters got no gradient in an update, and DDP waits for all: is a part of the model unused? "
     "DistributedDataParallel(..., find_unused_parameters=True) allows it"),
    (r"out of memory|MemoryError|DefaultCPUAllocator", "give the script a smaller model or batch for the check"),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How one rank ended.

    Args:
        code: of the process; negative: ended by that signal.
        how: what it told: "enough", "ended", "exited", "raised"; "" if nothing.
        updates, passes: updates done, and micro-batches of the next one.
        stack: where it was, as faulthandler writes it, if it was asked.
        said: its output.
    """

    rank: int
    code: int
    how: str
    kind: str = ""
    message: str = ""
    trace: str = ""
    updates: int = 0
    passes: int = 0
    stack: str = ""
    said: str = ""

    @property
    def position(self) -> str:
        """How far it came."""
        return f"after {self.updates} update(s) and {self.passes} more micro-batch(es)"


@dataclass(frozen=True)
class Place:
    """Where a process waits: the collective, and the user's own line."""

    collective: str
    line: str


def explain(script: str, outcomes: Sequence[Outcome], hung_seconds: float | None) -> str:
    """The reason why there is nothing to judge; "" if there is."""
    if hung_seconds is not None:
        return _hang(outcomes, hung_seconds)
    crashed = [outcome for outcome in outcomes if outcome.how in ("raised", "exited") or not outcome.how]
    if crashed:
        return _crash(script, outcomes, crashed)
    return ""


def _hang(outcomes: Sequence[Outcome], seconds: float) -> str:
    lines = [f"no progress for {seconds:g} s, so the workers were ended"]
    waits_for: list[str] = []
    for outcome in outcomes:
        if outcome.how:
            lines.append(f"worker {outcome.rank} had left the loop {outcome.position}")
            continue
        where = place(outcome.stack)
        doing = f"waits in {where.collective}" if where.collective else "is in no collective"
        waits_for.append(where.collective)
        lines.append(f"worker {outcome.rank} {doing} at {where.line or 'an unknown line'}, {outcome.position}")
    if any(waits_for) and (any(outcome.how for outcome in outcomes) or len({*waits_for}) > 1 or _uneven(outcomes)):
        lines.append(
            "the workers do not meet: with uneven inputs one leaves its loop earlier. Give all workers equally many batches "
            "(a DistributedSampler), or use DDP's join(); a collective inside `if rank == 0` does the same"
        )
    elif not any(waits_for):
        lines.append("if it is only slow to start, raise --timeout")
    return "\n  ".join(lines)


def _uneven(outcomes: Sequence[Outcome]) -> bool:
    return len({(outcome.updates, outcome.passes) for outcome in outcomes}) > 1


def place(stack: str) -> Place:
    """Where the main thread is, from faulthandler's text (most recent call first)."""
    frames = re.findall(r'File "([^"]+)", line (\d+) in (\S+)', _main_thread(stack))
    collective = next((name for path, _, function in frames if (name := _collective(path, function))), "")
    line = next((f"{path}:{number} ({function})" for path, number, function in frames if _is_users(path)), "")
    return Place(collective, line)


def _main_thread(stack: str) -> str:
    threads = re.split(r"\n(?=Thread|Current thread)", stack)
    return next((thread for thread in threads if "largebatch/check/_child" in thread), stack)


def _collective(path: str, function: str) -> str:
    if path.endswith("distributed_c10d.py") and not function.startswith("_"):
        return f"torch.distributed.{function}"
    if path.endswith("rendezvous.py"):
        return "torch.distributed.init_process_group"
    if path.endswith("nn/parallel/distributed.py"):
        return "DistributedDataParallel(...)" if function == "__init__" else "DDP's broadcast of buffers in forward()"
    return "DDP's all_reduce of gradients in backward()" if function == "_engine_run_backward" else ""


def _is_users(path: str) -> bool:
    return not re.search(r"site-packages|dist-packages|/lib/python3|largebatch/check/|^<|/torch/", path)


def _crash(script: str, outcomes: Sequence[Outcome], crashed: Sequence[Outcome]) -> str:
    own = [o for o in crashed if not LOST_CONNECTION.search(o.message) and (o.how or o.code > 0)]
    left = [o for o in outcomes if o.how in ("ended", "enough")]
    if not own and left and any(LOST_CONNECTION.search(o.message) for o in crashed):
        waiting = next(o for o in crashed if LOST_CONNECTION.search(o.message))
        return (
            f"worker {waiting.rank} still waited for the others {waiting.position}, but worker {left[0].rank} had left "
            "the loop "
            f"{left[0].position}: the inputs are uneven. Give all workers equally many batches (a DistributedSampler), "
            "or use "
            f"DDP's join()\n{waiting.trace.rstrip()}"
        )
    first = (own or list(crashed))[0]
    if first.how == "exited":
        return f"{script} ended with exit code {first.message}; it said:\n{_tail(first.said)}"
    if not first.how:
        how = f"was ended by signal {-first.code}" if first.code < 0 else f"ended with exit code {first.code}"
        return f"worker {first.rank} {how} {first.position}; it said:\n{_tail(first.said)}"
    advice = next((text for pattern, text in ADVICE if re.search(pattern, first.message)), "")
    head = f"worker {first.rank} of {script} crashed {first.position}: {first.kind}: {first.message.strip()}"
    return "\n".join([head, *([f"  {advice}"] if advice else []), first.trace.rstrip()])


def _tail(said: str) -> str:
    return "\n".join(f"  {line}" for line in said.rstrip().splitlines()[-LAST_LINES:])
