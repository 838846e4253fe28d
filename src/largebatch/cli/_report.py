"""The verb `report`: one HTML page from what other verbs left on disk."""

from dataclasses import dataclass
from pathlib import Path

from largebatch.cli._output import print_json

__all__ = ["ReportCommand", "run_report"]


@dataclass
class ReportCommand:
    """Show me the evidence: one page that opens offline, the answer first, then tables and plots.

    Args:
        folder: of `largebatch study`, also while it is at work; of `diagnose`; of a run of `train`.
        out: the page; default: report.html in the folder.
        json: print where it is and how large as JSON on stdout.
    """

    folder: Path
    out: Path | None = None
    json: bool = False


def run_report(command: ReportCommand) -> int:
    """Write the page and tell where it is; returns the exit code."""
    from largebatch import report

    page = report.write(command.folder, command.out)
    size = page.stat().st_size
    if command.json:
        print_json({"folder": str(command.folder), "report": str(page), "bytes": size})
    else:
        print(f"{page} ({size / 1e6:.1f} MB)")
    return 0
