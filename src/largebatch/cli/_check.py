"""The verb `check`: a user's own script, or an optimiser class, against what it should compute."""

from dataclasses import dataclass
from typing import Literal

from largebatch.cli._output import fail, print_json

__all__ = ["CheckCommand", "run_check", "split_words"]

VALUED = ("--workers", "--updates", "--gradients", "--timeout", "--optimizer", "--paper")
PLAIN = ("--no-compare", "--json", "--help", "-h")


@dataclass
class CheckCommand:
    """Is my own training loop computing the gradient it should?

    `largebatch check train.py [ARGUMENTS…]` runs the script as torchrun would start it, on CPUs, for a few updates. It
    really runs, once or several times, and may write its files: give it a folder of its own to write to.

    `largebatch check --optimizer module:Class` holds a LARS, LAMB or SAM against its paper.

    Options of this command may stand anywhere before `--`; what follows `--` goes to the script in any case. The script
    tells its loss by largebatch.check.reference(model, dataset, loss); Lightning modules and HF Trainers need not.

    Args:
        workers: processes, as torchrun's --nproc-per-node.
        updates: watched at most; the epoch is then cut short to see the next one begin.
        gradients: of the first updates that are held against the reference, beside those at the end of an epoch.
        no_compare: do not run again with another number of workers.
        timeout: seconds without progress after which the script has hung.
        optimizer: check this class instead of a script.
        paper: what the optimizer claims to be, where its name does not tell.
        json: print the result as JSON on stdout.
    """

    workers: int = 2
    updates: int = 100
    gradients: int = 8
    no_compare: bool = False
    timeout: float = 60.0
    optimizer: str | None = None
    paper: Literal["lars", "lamb", "sam"] | None = None
    json: bool = False


def split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """Our own options, and the script with its arguments."""
    ours: list[str] = []
    theirs: list[str] = []
    rest = iter(words)
    for word in rest:
        name = word.partition("=")[0]
        if word == "--":
            theirs += rest
        elif name in VALUED and (name == word):
            ours += [word, *([value] if (value := next(rest, None)) is not None else [])]
        elif name in VALUED or word in PLAIN[:2] or (word in PLAIN and not theirs):
            ours.append(word)
        else:
            theirs.append(word)
    return ours, theirs


def run_check(command: CheckCommand, words: list[str]) -> int:
    """Check and print; `words` are the script and its arguments. Returns the exit code."""
    if (command.optimizer is None) == (not words):
        return fail("script: expected a Python script, or --optimizer module:Class; see largebatch check --help")
    from largebatch import check

    if command.optimizer is not None:
        result = check.conformance(command.optimizer, command.paper)
    else:
        result = check.loop(
            words[0], *words[1:], workers=command.workers, compare=not command.no_compare, updates=command.updates,
            gradients=command.gradients, timeout_seconds=command.timeout,
        )  # fmt: skip
    print_json(result.to_json()) if command.json else print(result.text(), end="")
    return {"pass": 0, "fail": 1, "error": 2}[result.verdict]
