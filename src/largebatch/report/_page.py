"""One HTML file that needs nothing else: words and tables in plain HTML first, then Plotly packed, then the figures as data.

Plotly is 2.0 MB instead of 4.8 as base64 of gzip, which browsers unpack themselves (`DecompressionStream`, in all of them
since 2023), and the page paints before it is needed. A content security policy in the head lets two scripts run, known by
their SHA-256, and nothing be fetched from anywhere: a name that smuggled in markup in spite of escaping could do nothing.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from largebatch.report._cite import Reference
from largebatch.report._figure import Columns, Figure
from largebatch.report._sheet import Sheet, shown

__all__ = ["Page", "Section", "render"]


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    Args:
        key: its name in links.
        words: paragraphs; `points` a list; `facts` names with values.
    """

    key: str
    title: str
    words: Sequence[str] = ()
    points: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    sheets: Sequence[Sheet] = ()
    figures: Sequence[Figure] = ()
    references: Sequence[Reference] = ()


@dataclass(frozen=True)
class Page:
    """What is on the page, in the order it is read.

    Args:
        name: of downloaded files.
        lead: the question.
        facts: one line: what was run.
        warning: what makes the page provisional; "" where nothing does.
        answer: sentences, the most important first.
        cells: what can be chosen, in the order of colours → whether it is shown at first.
        seeds: that can be chosen.
    """

    name: str
    title: str
    lead: str
    facts: str
    warning: str
    answer: Sequence[str]
    sections: Sequence[Section]
    cells: Mapping[str, bool]
    seeds: Sequence[int] = ()


def render(page: Page) -> str:
    """The page's HTML."""
    library, script = get_plotlyjs(), _template_file("page.js")
    marks = {name: place for place, name in enumerate(page.cells)}
    return _environment(marks).get_template("page.html.j2").render(
        page=page, style=Markup(_template_file("page.css")), script=Markup(script), data=_script_json(_data(page)),
        library=Markup(_packed(library)), policy=_policy(library, script),
    )  # fmt: skip


def _data(page: Page) -> dict[str, Any]:
    columns = Columns()
    figures = [columns.encoded(figure) for section in page.sections for figure in section.figures]
    sheets = {sheet.key: sheet.csv for section in page.sections for sheet in section.sheets}
    cells = [{"name": name, "on": on} for name, on in page.cells.items()]
    return {"name": page.name, "cells": cells, "seeds": list(page.seeds), "figures": figures, "sheets": sheets,
            "columns": columns.lists}  # fmt: skip


def _environment(marks: Mapping[str, int]) -> Environment:
    environment = Environment(
        loader=PackageLoader("largebatch.report", "template"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {"marks": marks, "Sheet": Sheet}
    environment.filters["shown"] = shown
    return environment


def _script_json(value: object) -> Markup:
    """JSON that no HTML parser can end, or begin a comment in, before it ends: <, > and & are escapes."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


@cache
def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=9, mtime=0)).decode()


def _policy(*scripts: str) -> str:
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"


def _template_file(name: str) -> str:
    return resources.files("largebatch.report").joinpath("template", name).read_text(encoding="utf-8")
