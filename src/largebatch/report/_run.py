"""One training run as a page: how it ended, what its recipe changed, its curves."""

from pathlib import Path

from largebatch.report._cite import references
from largebatch.report._curves import curve, training_figures
from largebatch.report._page import Page, Section
from largebatch.report._sheet import Entry, Sheet, shown
from largebatch.report._tables import recipe_sheet
from largebatch.results import Column, RunFolder

__all__ = ["is_run", "run_page"]


def is_run(folder: Path) -> bool:
    """Whether `largebatch train` works or worked in this folder."""
    return RunFolder(folder).read("recipe.json") is not None


def run_page(folder: Path) -> Page:
    """The page of a run folder, also while the run is at work."""
    held = RunFolder(folder)
    who, result = held.read("recipe.json") or {}, held.read("result.json")
    recipe, seed, name = who["recipe"], who["seed"], f"batch {who['recipe']['global_batch_size']}"
    status = "running" if result is None else result["status"]
    changes = recipe.get("changes", ())
    sections = [
        Section("curves", "Training curves", figures=training_figures([curve(name, seed, status, held.log())])),
        Section("recipe", "What was changed, and on whose authority", sheets=[recipe_sheet({name: recipe}, folded=False)]),
        Section("provenance", "How it was made", facts=_facts(who) | _facts(held.read("environment.json") or {}),
                sheets=[_metrics({} if result is None else result["metrics"])]),
        Section("references", "References of the methods used",
                references=references(change["source"] for change in changes if "arXiv" in change["source"])),
    ]  # fmt: skip
    return Page(
        name=f"{folder.resolve().name}", title=f"{who['task']}, {name}, seed {seed}", lead="", facts=f"run {who['digest']}",
        warning="Provisional: the run has not ended. The same command goes on with it." if result is None else "",
        answer=() if result is None else _answer(result), sections=sections, cells={name: True}, seeds=(seed,),
    )  # fmt: skip


def _answer(result: dict) -> tuple[str, ...]:
    ended = f"It {result['status']} after {shown(result['updates'])} updates"
    told = [f"{name.replace('_', ' ')} {_shown(name, value)}" for name, value in result["metrics"].items()
            if name.startswith(("test_", "train_")) and " " not in name]  # fmt: skip
    reason = (f"{result['reason']}.",) if result["reason"] else ()
    return (f"{ended}{': ' if told else ''}{', '.join(told)}.", *reason, *result.get("notes", ()))


def _shown(name: str, value: float) -> str:
    return f"{100 * value:.4g} %" if name.endswith("accuracy") else f"{value:.4g}"


def _metrics(metrics: dict[str, float]) -> Sheet:
    rows = [[name, Entry(value)] for name, value in metrics.items()]
    return Sheet("metrics", "At the end.", ["metric", Column("value")], rows)


def _facts(held: dict) -> dict[str, str]:
    return {name: str(value) for name, value in held.items() if not isinstance(value, dict | list)}
