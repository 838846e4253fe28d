"""Write the page of a folder into it."""

from pathlib import Path

from largebatch.report._diagnosis import diagnosis_page, is_diagnosis
from largebatch.report._page import Page, render
from largebatch.report._run import is_run, run_page
from largebatch.report._study import is_study, study_page
from largebatch.results import replace_file

__all__ = ["write"]


def write(folder: str | Path, out: str | Path | None = None) -> Path:
    """Make one self-contained HTML page of what a folder holds; a page that is there is replaced whole.

    Args:
        folder: of a study, also while it is at work; of a diagnosis; of a training run.
        out: the file; None: report.html in the folder.

    Returns:
        The file.

    Raises:
        ValueError: the folder holds none of these.
    """
    folder = Path(folder)
    target = folder / "report.html" if out is None else Path(out)
    replace_file(target, render(_page(folder)))
    return target


def _page(folder: Path) -> Page:
    for is_one, page in ((is_study, study_page), (is_diagnosis, diagnosis_page), (is_run, run_page)):
        if is_one(folder):
            return page(folder)
    raise ValueError(
        f"{folder}: expected the folder of a study, a diagnosis or a run, as `largebatch study`, `diagnose` or "
        "`train` leave it, found none of them"
    )
