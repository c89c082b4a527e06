"""A summary laid out on pages: A4 for print, dark squares for a PACS's screen. Tables break, headings repeat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import groupby

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from pipelines.evidence.summary import Row, Summary
from pipelines.evidence.views import CAUTION

FONT = "DejaVu Sans"  #: comes with matplotlib, so a page is the same on every machine
_POINTS_PER_INCH = 72.0
#: Left edges of the table's columns, as shares of the text's width; values end at the fourth.
_SUBJECT, _NAME, _VALUE, _UNIT = 0.03, 0.34, 0.73, 0.87
_LEADING = 1.45
#: Lines of a segment that no page break parts.
_KEPT_TOGETHER = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class PageStyle:
    """Size and colours of pages; lengths in points."""

    width: float
    height: float
    dpi: int
    margin: float
    #: Of the table's text.
    size: float
    background: str
    ink: str
    faint: str
    accent: str
    line: str


PRINT = PageStyle(
    width=595.0, height=842.0, dpi=72, margin=42.0, size=8.5,
    background="white", ink="#16191d", faint="#68707a", accent="#a33b00", line="#cfd4da",
)  # fmt: skip
#: 1024 x 1024 pixels.
SCREEN = PageStyle(
    width=737.28, height=737.28, dpi=100, margin=36.0, size=11.0,
    background="#111418", ink="#f2f4f6", faint="#9aa4af", accent="#ffb454", line="#343b44",
)  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Writer:
    """Pages being filled, from top to bottom."""

    style: PageStyle
    figures: list[Figure] = field(default_factory=list)
    #: Distance from the top of the last page to the next line.
    y: float = 0.0

    @property
    def text_width(self) -> float:
        """Between the margins."""
        return self.style.width - 2 * self.style.margin

    def new_page(self) -> None:
        """Begin another page."""
        style = self.style
        size = (style.width / _POINTS_PER_INCH, style.height / _POINTS_PER_INCH)
        figure = Figure(figsize=size, dpi=style.dpi, facecolor=style.background)
        FigureCanvasAgg(figure)
        self.figures.append(figure)
        self.y = style.margin

    def room(self) -> float:
        """Points left above the footer."""
        return self.style.height - 1.2 * self.style.margin - self.y

    def text(  # noqa: PLR0913 - how a word looks
        self, text: str, x: float, y: float, *, size: float, colour: str, bold: bool = False,
        right: bool = False,
    ) -> None:  # fmt: skip
        """Write one line, its middle at `y` from the top, from `x` right of the margin (or up to there)."""
        style = self.style
        self.figures[-1].text(
            (style.margin + x) / style.width,
            1 - y / style.height,
            text,
            fontsize=size,
            color=colour,
            family=FONT,
            weight="bold" if bold else "normal",
            ha="right" if right else "left",
            va="center_baseline",
            parse_math=False,
        )

    def paragraph(self, text: str, *, size: float, colour: str, bold: bool = False) -> None:
        """Write lines across the page and move on."""
        height = _LEADING * size
        for line in wrapped(text, self.text_width, size, bold=bold):
            if self.room() < height:
                self.new_page()
            self.text(line, 0, self.y + height / 2, size=size, colour=colour, bold=bold)
            self.y += height

    def box(self, x: float, y: float, size: tuple[float, float], colour: str) -> None:
        """Fill a rectangle of (width, height) whose upper left corner is at (x, y)."""
        style, (width, height) = self.style, size
        corner = ((style.margin + x) / style.width, 1 - (y + height) / style.height)
        figure = self.figures[-1]
        figure.add_artist(
            Rectangle(
                corner,
                width / style.width,
                height / style.height,
                facecolor=colour,
                edgecolor="none",
                transform=figure.transFigure,
            )
        )


def wrapped(text: str, width: float, size: float, *, bold: bool = False) -> list[str]:
    """Lines of a text that are no wider than `width` points; words longer than that are broken."""
    font = FontProperties(family=FONT, size=size, weight="bold" if bold else "normal")

    def fits(line: str) -> bool:
        return text_to_path.get_text_width_height_descent(line, font, False)[0] <= width

    lines, line = [], ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if fits(joined):
            line = joined
            continue
        if line:
            lines.append(line)
        while not fits(word):
            cut = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or fits(word[:n]))
            lines.append(word[:cut])
            word = word[cut:]  # noqa: PLW2901 - what is left of it
        line = word
    return [*lines, line]


def write_head(writer: Writer, summary: Summary) -> None:
    """Begin a page with title, caution and remarks."""
    style = writer.style
    writer.new_page()
    writer.paragraph(summary.title, size=2 * style.size, colour=style.ink, bold=True)
    writer.paragraph(CAUTION, size=1.2 * style.size, colour=style.accent, bold=True)
    writer.y += 0.4 * style.size
    for remark in summary.remarks:
        writer.paragraph(f"\u2022 {remark}", size=1.1 * style.size, colour=style.ink)
    writer.y += style.size


def write_table(writer: Writer, summary: Summary) -> None:
    """Write the statements, grouped by subject; the columns' names head every page."""
    style = writer.style
    if summary.rows:
        _table_head(writer)
    for _, group in groupby(summary.rows, key=lambda row: row.subject):
        _group(writer, list(group))
    if summary.not_found:
        writer.y += 0.6 * style.size
        text = f"Looked for and not found (0 mL): {', '.join(summary.not_found)}."
        writer.paragraph(text, size=style.size, colour=style.ink)
    writer.y += 1.5 * style.size


def write_facts(writer: Writer, facts: Sequence[tuple[str, str]]) -> None:
    """Write what is known of the run, as names and values, on one page."""
    style = writer.style
    size, height = style.size, _LEADING * style.size
    indent = 0.16 * writer.text_width
    cells = [(name, wrapped(value, writer.text_width - indent, size)) for name, value in facts]
    if writer.room() < height * (2 + sum(len(lines) for _, lines in cells)):
        writer.new_page()
    writer.paragraph("How it was made", size=1.2 * size, colour=style.ink, bold=True)
    for name, lines in cells:
        writer.text(name, 0, writer.y + height / 2, size=size, colour=style.faint)
        for line in lines:
            writer.text(line, indent, writer.y + height / 2, size=size, colour=style.ink)
            writer.y += height


def finish_pages(writer: Writer, summary: Summary) -> list[Figure]:
    """Foot every page with caution, title and number."""
    style = writer.style
    size, y = 0.85 * style.size, style.height - 0.6 * style.margin
    for number, figure in enumerate(writer.figures, start=1):
        footer = Writer(style=style, figures=[figure])
        footer.box(0, y - size, (writer.text_width, 0.5), style.faint)
        footer.text(f"{summary.title}. {CAUTION}.", 0, y, size=size, colour=style.faint)
        count = f"page {number} of {len(writer.figures)}"
        footer.text(count, writer.text_width, y, size=size, colour=style.faint, right=True)
    return writer.figures


def rgb_pixels(figure: Figure) -> NDArray[np.uint8]:
    """A drawing as pixels at its own resolution, shape (rows, columns, 3)."""
    canvas = FigureCanvasAgg(figure)
    buffer = BytesIO()
    canvas.print_rgba(buffer)  # type: ignore[no-untyped-call]
    width, height = canvas.get_width_height()
    pixels = np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)
    return np.ascontiguousarray(pixels[..., :3])


def _table_head(writer: Writer) -> None:
    style, width = writer.style, writer.text_width
    height = _LEADING * style.size
    if writer.room() < 4 * height:
        writer.new_page()
    y = writer.y + height / 2
    for name, x, right in (
        ("Segment", 0.0, False),
        ("Measurement", _NAME, False),
        ("Value", _UNIT - 0.015, True),
        ("Unit", _UNIT, False),
    ):
        writer.text(name, x * width, y, size=style.size, colour=style.faint, bold=True, right=right)
    writer.y += height
    writer.box(0, writer.y, (width, 0.8), style.ink)
    writer.y += 0.3 * height


def _group(writer: Writer, rows: Sequence[Row]) -> None:
    """The rows of one subject, its name at the first and again where a page breaks."""
    style, width = writer.style, writer.text_width
    height = _LEADING * style.size
    subject = wrapped(rows[0].subject, (_NAME - _SUBJECT - 0.02) * width, style.size, bold=True)
    named, deep = False, list(_row_lines(writer, rows))
    if sum(deep) <= _KEPT_TOGETHER and writer.room() < sum(deep) * height:
        writer.new_page()
        _table_head(writer)
    for row, lines in zip(rows, deep, strict=True):
        depth = max(lines, len(subject) if row is rows[0] else 1)
        if writer.room() < depth * height:
            writer.new_page()
            _table_head(writer)
            named = False
        top = writer.y
        if not named:
            _name(writer, rows[0], subject)
            named = True
        _cells(writer, row)
        writer.y = top + depth * height
    writer.box(0, writer.y + 0.12 * height, (width, 0.8), style.line)
    writer.y += 0.25 * height


def _name(writer: Writer, row: Row, lines: Sequence[str]) -> None:
    style, width = writer.style, writer.text_width
    height = _LEADING * style.size
    if row.rgb is not None:
        side = 0.9 * style.size
        colour = "#{:02x}{:02x}{:02x}".format(*row.rgb)
        writer.box(0, writer.y + (height - side) / 2, (side, side), colour)
    for number, line in enumerate(lines):
        y = writer.y + (number + 0.5) * height
        writer.text(line, _SUBJECT * width, y, size=style.size, colour=style.ink, bold=True)


def _cells(writer: Writer, row: Row) -> None:
    style, width = writer.style, writer.text_width
    height = _LEADING * style.size
    name, value = _wrapped_cells(writer, row)
    for column, lines in ((_NAME, name), *(((_VALUE, value),) if row.coded else ())):
        for number, line in enumerate(lines):
            y = writer.y + (number + 0.5) * height
            writer.text(line, column * width, y, size=style.size, colour=style.ink)
    if not row.coded:
        y, edge = writer.y + height / 2, (_UNIT - 0.015) * width
        writer.text(row.value, edge, y, size=style.size, colour=style.ink, right=True)
        writer.text(row.unit, _UNIT * width, y, size=style.size, colour=style.faint)


def _row_lines(writer: Writer, rows: Sequence[Row]) -> Iterator[int]:
    for row in rows:
        yield max(len(lines) for lines in _wrapped_cells(writer, row))


def _wrapped_cells(writer: Writer, row: Row) -> tuple[list[str], list[str]]:
    size, width = writer.style.size, writer.text_width
    value = wrapped(row.value, (1 - _VALUE) * width, size) if row.coded else [row.value]
    return wrapped(row.name, (_VALUE - _NAME - 0.02) * width, size), value
