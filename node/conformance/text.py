"""Markdown: tables, and the numbering of sections."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_HEADING = re.compile(r"^(#{2,4}) (.+)$", re.MULTILINE)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; a cell's line breaks and bars do not end it."""
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines)


def yes(value: bool) -> str:
    """As PS3.2 writes it."""
    return "Y" if value else "N"


def contents(text: str) -> str:
    """The headings of levels 2 and 3 as a list of links."""
    lines = []
    for marks, heading in _HEADING.findall(text):
        if len(marks) <= 3:
            anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            lines.append(f"{'  ' * (len(marks) - 2)}- [{heading}](#{anchor})")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|") or "-"
