"""The command line: a verb is a question. Results go to stdout, progress and remarks to stderr.

Exit codes: 0 done, 1 the answer is negative (a run diverged, a study is not complete), 2 the input is wrong, 130 or 143
stopped by Ctrl-C or SIGTERM after a checkpoint, 141 whoever read the output has gone, as `head` does.
"""

import gc
import os
import select
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import largebatch
from largebatch.cli._check import CheckCommand, run_check, split_words
from largebatch.cli._diagnose import DiagnoseCommand, SharpnessCommand, run_diagnosis, run_sharpness
from largebatch.cli._output import fail
from largebatch.cli._plan import PlanCommand, run_plan
from largebatch.cli._probe import ProbeCommand, run_probe
from largebatch.cli._report import ReportCommand, run_report
from largebatch.cli._show import TasksCommand, show_tasks
from largebatch.cli._study import DemoCommand, StudyCommand, run_demo, run_study
from largebatch.cli._train import TrainCommand, run_training

__all__ = ["main"]

HELP = """\
largebatch: train with large batches without losing accuracy, and know why when you do lose it

usage: largebatch VERB …          largebatch VERB --help

  demo       Is a large batch worse, and what wins it back? A dozen recipes on real digits, three minutes.
  train      I have a recipe tuned at batch 256. Train it at 8192, on any number of workers.
  probe      How large a batch still pays, for this model on this data?
  check      Is my own training loop computing the gradient it should?
  diagnose   My large-batch model is worse. Why?
  study      Does it hold over seeds, and which remedy works for me?
  plan       What do N workers cost me, in hours and money?
  report     Show me the evidence: one page that opens offline.
  tasks      What can I train out of the box, and is its data here?

  --help     this text
  --version  the version
"""


class Verb(NamedTuple):
    """A verb's arguments and what it does with them.

    Args:
        appends: a list is given by repeating its option; else by several values behind it.
    """

    command: type
    action: Callable[[Any], int]
    appends: bool = True


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        code = _main(sys.argv[1:] if arguments is None else arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # stdout, for what is still in the buffer
        return 141
    if arguments is None:
        gc.freeze()  # the process ends: without this it collects all that torch made, for half a second
    return code


def _main(words: list[str]) -> int:
    verb, rest = (words[0], words[1:]) if words else ("--help", [])
    if verb in ("--help", "-h", "help"):
        print(HELP, end="")
        return 0
    if verb == "--version":
        print(largebatch.__version__)
        return 0
    verbs = {
        "demo": Verb(DemoCommand, run_demo),
        "train": Verb(TrainCommand, lambda command: run_training(command, words)),
        "probe": Verb(ProbeCommand, run_probe, appends=False),
        "diagnose": Verb(DiagnoseCommand, run_diagnosis, appends=False),
        "study": Verb(StudyCommand, lambda command: run_study(command, words)),
        "plan": Verb(PlanCommand, run_plan, appends=False),
        "report": Verb(ReportCommand, run_report),
        "tasks": Verb(TasksCommand, show_tasks),
    }
    if words[:2] == ["diagnose", "sharpness"]:
        return _run(Verb(SharpnessCommand, run_sharpness, appends=False), "diagnose sharpness", rest[1:])
    if verb == "check":
        ours, theirs = split_words(rest)
        return _run(Verb(CheckCommand, lambda command: run_check(command, theirs)), "check", ours)
    if verb not in verbs:
        return fail(f"verb: expected one of {', '.join([*verbs, 'check'])}, got {verb!r}; see largebatch --help")
    return _run(verbs[verb], verb, rest)


def _run(verb: Verb, name: str, rest: list[str]) -> int:
    import tyro

    try:
        markers = (tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff)
        markers += (tyro.conf.UseAppendAction,) if verb.appends else ()
        command = tyro.cli(verb.command, args=rest, prog=f"largebatch {name}", config=markers)
    except SystemExit as stop:
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return 130
    try:
        return verb.action(command)
    except KeyboardInterrupt:
        return 130
    except (ValueError, TypeError, OSError, ModuleNotFoundError, RuntimeError) as error:
        has_gone = isinstance(error, BrokenPipeError) and _reader_has_gone()
        if has_gone or not _is_ours(error) or os.environ.get("LARGEBATCH_TRACEBACK"):
            raise
        return fail(str(error))


def _reader_has_gone() -> bool:
    """Of our standard output, a pipe."""
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _is_ours(error: BaseException) -> bool:
    """Whether largebatch itself raised it, or the system refused it a file: a user's own code keeps its traceback."""
    ours, library = Path(largebatch.__file__).parent, Path(sysconfig.get_path("stdlib"))
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    while (
        isinstance(error, OSError)
        and frames
        and frames[-1].is_relative_to(library)
        and not frames[-1].is_relative_to(ours)
    ):
        frames.pop()
    return bool(frames) and frames[-1].is_relative_to(ours)
