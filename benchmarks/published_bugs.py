"""Mistakes of published versions, run again with those versions and caught by `largebatch check`.

    python benchmarks/published_bugs.py             # installs each old version into a folder of its own, beside this torch

Each version is put before the installed one by PYTHONPATH, with nothing it depends on but what it cannot do without, so
that torch stays what it is. The same script with the version in the development constraints is the control.
docs/published-bugs.md has the table this prints.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

GALLERY = Path(__file__).parent.parent / "tests" / "check" / "gallery"
OLD_TRANSFORMERS = ("tokenizers==0.20.3", "huggingface_hub==0.25.2", "accelerate==0.34.2", "requests")
MIDDLE_TRANSFORMERS = ("tokenizers==0.21.0", "huggingface_hub==0.27.1", "accelerate==1.3.0", "requests")
LATE_TRANSFORMERS = ("tokenizers==0.22.1", "huggingface_hub==0.36.0", "requests")


@dataclass(frozen=True)
class Case:
    """One published mistake.

    Args:
        packages: what is installed to have it; () for the version that is here.
        words: of `largebatch check`.
        expected: the culprit.
        source: where it was reported.
        has_control: the installed version does not have it, and is run too.
        emptied: files that only import what the case does not need (torchvision).
    """

    what: str
    packages: tuple[str, ...]
    words: tuple[str, ...]
    expected: str
    source: str
    has_control: bool = True
    emptied: tuple[str, ...] = ()


TRANSFORMERS = str(GALLERY / "transformers_loop.py")
CASES = (
    Case("gradient accumulation is a mean of means over unequal numbers of tokens",
         ("transformers==4.45.2", *OLD_TRANSFORMERS), (TRANSFORMERS, "--workers", "1"), "mean_of_means",
         "huggingface/transformers#34191"),
    Case("labels are counted that have no loss (the first of every text)",
         ("transformers==4.48.3", *MIDDLE_TRANSFORMERS), (TRANSFORMERS, "--workers", "1"),
         "labels_without_loss_counted",
         "huggingface/transformers#46204"),
    Case("tokens are averaged per worker, then over workers, and so counted",
         ("transformers==4.48.3", *MIDDLE_TRANSFORMERS), (TRANSFORMERS, "--workers", "2"), "mean_of_means",
         "huggingface/transformers#34242"),
    Case("labels are counted that have no loss, for GPT-2",
         (), (TRANSFORMERS, "gpt2", "--workers", "1"), "labels_without_loss_counted",
         "seen here", has_control=False),
    Case("label smoothing ignores the number of tokens of the window",
         ("transformers==4.57.6", *LATE_TRANSFORMERS), (TRANSFORMERS, "label_smoothing", "--workers", "1"), "mean_of_means",
         "huggingface/transformers#46731"),
    Case("LARS starts its momentum buffer at the raw gradient",
         ("pytorch-optimizer==3.9.0",), ("--optimizer", "pytorch_optimizer:LARS"), "first_step_wrong",
         "fixed in 4.1.0"),
    Case("LARS without weight decay has no trust ratio",
         ("timm==1.0.31",), ("--optimizer", "timm.optim.lars:Lars"), "trust_ratio_skipped",
         "timm: always_adapt=False", has_control=False, emptied=("timm/__init__.py", "timm/optim/__init__.py")),
    Case("the short last window of an epoch is divided by all accumulation steps",
         (), (str(GALLERY / "lightning_loop.py"), "short_last_window", "--workers", "2"), "short_last_window",
         "Lightning-AI/pytorch-lightning#4653", has_control=False),
    Case("a prepared scheduler steps once per worker",
         (), (str(GALLERY / "accelerate_loop.py"), "scheduler_steps_per_worker", "--workers", "2"),
         "scheduler_steps_per_worker", "huggingface/accelerate#662", has_control=False),
)  # fmt: skip


def caught(case: Case, folder: Path) -> list[str]:
    """What is found to be wrong, by name, with the case's packages before the installed ones."""
    overlay = folder / ("-".join(case.packages[:1]) or "installed").replace("=", "")
    if case.packages and not overlay.exists():
        install = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-compile",
            "--target",
            str(overlay),
        ]
        subprocess.run([*install, *case.packages], check=True)
        for name in case.emptied:
            (overlay / name).write_text("")
    return found(case, {"PYTHONPATH": str(overlay)} if case.packages else {})


def found(case: Case, more: dict[str, str]) -> list[str]:
    """Names of what is wrong, or the reason why nothing could be checked."""
    command = [sys.executable, "-m", "largebatch", "check", *case.words, "--json"]
    done = subprocess.run(command, env=os.environ | more, capture_output=True, text=True, check=False)
    if not done.stdout:
        return [done.stderr.strip().splitlines()[-1]]
    result = json.loads(done.stdout)
    if result["verdict"] == "error":
        return [result["reason"]]
    return [finding["culprit"] for finding in result["findings"] if finding["severity"] == "wrong"]


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="published-bugs-"))
    for case in CASES:
        names = caught(case, folder)
        here = f"; installed version: {', '.join(found(case, {})) or 'passes'}" if case.has_control else ""
        packages = case.packages[0] if case.packages else "the installed version"
        verdict = "caught" if case.expected in names else "MISSED"
        print(f"{verdict}: {packages}: {case.what} ({case.source}): {names}{here}", flush=True)


if __name__ == "__main__":
    main()
