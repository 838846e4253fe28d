"""One worker of a check: run the user's script with a recorder installed, and leave what it saw in a folder.

    python -m largebatch.check._child FOLDER SETTINGS TARGET ARGUMENTS...

The parent reads, for each rank: record-R.pt, outcome-R.json, progress-R and, when it asked by SIGUSR1 where this process is,
stack-R.
"""

import faulthandler
import importlib.util
import json
import os
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import torch

from largebatch.recording import Enough, Recorder

__all__ = ["observe"]

FAREWELL_SECONDS = 10.0  # for the other ranks to see what they need
SHOWN_PASSES = 256  # a window longer than that is no progress: the loop never steps


def observe(target: str, arguments: list[str], recorder: Recorder) -> dict[str, str]:
    """Run a script, or a function `file.py:name`, under a recorder; returns how it came to its end.

    Returns:
        `how`: "enough" (the recorder stopped it), "ended", "exited" or "raised"; and in the last two cases `message`,
        `kind` and `trace`.
    """
    path, _, function = target.rpartition(":") if ".py:" in target else (target, "", "")
    before = sys.argv, list(sys.path)
    sys.argv, sys.path[:0] = [path, *arguments], [str(Path(path).resolve().parent)]
    try:
        with recorder.installed():
            if function:
                _function(path, function)(*arguments)
            else:
                runpy.run_path(path, run_name="__main__")
        return {"how": "ended"}
    except Enough:
        return {"how": "enough"}
    except SystemExit as stop:
        if stop.code in (None, 0):
            return {"how": "ended"}
        return {"how": "exited", "kind": "SystemExit", "message": str(stop.code), "trace": ""}
    except BaseException as error:
        return {"how": "raised", "kind": type(error).__name__, "message": str(error), "trace": _users(error)}
    finally:
        sys.argv, sys.path[:] = before


def _function(path: str, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # data loaders and dataclasses look it up there
    spec.loader.exec_module(module)
    return getattr(module, name)


def _users(error: BaseException) -> str:
    """The traceback without the frames that run the script."""
    lines = traceback.format_exception(error)
    return "".join(line for line in lines if "largebatch/check/" not in line and "<frozen runpy>" not in line)


def _main(folder: Path, settings: dict[str, Any], target: str, arguments: list[str]) -> NoReturn:
    rank, size = os.environ["RANK"], int(os.environ["WORLD_SIZE"])
    stack = (folder / f"stack-{rank}").open("w")
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, file=stack, all_threads=True)
    progress = (folder / f"progress-{rank}").open("w")

    def show(updates: int, passes: int) -> None:
        if passes <= SHOWN_PASSES:
            progress.seek(0)
            progress.write(f"{updates} {passes}\n")
            progress.truncate()
            progress.flush()

    recorder = Recorder(settings["updates"], settings["gradients"], show)
    outcome = observe(target, arguments, recorder)
    torch.save(recorder.record(), folder / f"record-{rank}.pt")
    unfinished = folder / f"outcome-{rank}.unfinished"
    unfinished.write_text(json.dumps(outcome))
    unfinished.rename(folder / f"outcome-{rank}.json")
    deadline = time.monotonic() + FAREWELL_SECONDS
    while (
        outcome["how"] == "enough" and len(list(folder.glob("outcome-*.json"))) < size and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # not through the interpreter's end: a process group that waits for the others would hang here


if __name__ == "__main__":
    _main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3], sys.argv[4:])
