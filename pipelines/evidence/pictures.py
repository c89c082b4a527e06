"""One slice of the source with the outlines of its segments, where it is, and what the colours mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from highdicom import Volume
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from pipelines.evidence.keyslices import Contour, key_slices, plane_contours
from pipelines.evidence.pages import FONT, SCREEN, wrapped
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.views import (
    CAUTION,
    colours,
    in_own_planes,
    letters,
    plane_name,
    slice_name,
    window,
)
from pipelines.result import AnalysisResult, Segment, SourceSeries

#: Pixels of the longer side of an image: the source's own, within these bounds.
_SMALLEST, _LARGEST = 512, 1024
_PANEL, _FOOTER = 248, 28
_DPI = 100
_POINTS_PER_PIXEL = 72 / _DPI
_LINE, _LETTER, _TEXT, _NAME = 1.4, 15, 12, 11  # pixels
_ROW, _MARGIN = 19, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """A source and its segments, turned for display; what all pictures of a series share."""

    #: Values and labels, axes (slice, row, column), rows and columns as radiologists look at them.
    image: Volume
    labels: Volume
    #: Values shown black and white.
    limits: tuple[float, float]
    #: Label value -> RGB, 0 to 1.
    rgb: NDArray[np.float64]
    #: Segment number -> slice on which it is largest.
    keys: dict[int, int]

    @property
    def pixel_mm(self) -> float:
        """Side of a pixel of the picture."""
        _, rows, columns = self.image.spatial_shape
        longest = max(rows * self.image.spacing[1], columns * self.image.spacing[2])
        return float(longest / min(max(rows, columns, _SMALLEST), _LARGEST))

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of the image in the picture, (width, height); even."""
        _, rows, columns = self.image.spatial_shape
        sides = columns * self.image.spacing[2], rows * self.image.spacing[1]
        width, height = (2 * round(side / self.pixel_mm / 2) for side in sides)
        return width, height


def prepare_views(source: SourceSeries, result: AnalysisResult) -> Views:
    """Turn a source and its segments for display."""
    return Views(
        image=in_own_planes(source.volume),
        labels=in_own_planes(result.label_map),
        limits=window(source),
        rgb=colours(result.segments),
        keys=key_slices(result),
    )


def draw_slice(views: Views, request: EvidenceRequest, index: int) -> Figure:
    """Draw slice `index` of the source: image and outlines left, text right and below; 100 dpi."""
    width, height = views.size
    whole = (width + _PANEL, max(height, _SMALLEST // 2) + _FOOTER)
    figure = Figure(
        figsize=(whole[0] / _DPI, whole[1] / _DPI), dpi=_DPI, facecolor=SCREEN.background
    )
    axes = figure.add_axes((0, 1 - height / whole[1], width / whole[0], height / whole[1]))
    _draw_image(axes, views, index)
    _draw_outlines(axes, views, index, _ambiguous(request.result.segments))
    _draw_letters(axes, views)
    panel = _Panel(figure=figure, left=width + _MARGIN, size=whole)
    panel.describe(views, request, index)
    panel.footer()
    return figure


def _draw_image(axes: Axes, views: Views, index: int) -> None:
    plane = views.image.array[index]
    low, high = views.limits
    unscaled = plane.shape == (views.size[1], views.size[0])
    axes.imshow(
        plane, cmap="gray", vmin=low, vmax=high, aspect="auto",
        interpolation="nearest" if unscaled else "bilinear",
    )  # fmt: skip
    axes.set_axis_off()


def _ambiguous(segments: Sequence[Segment]) -> dict[int, str]:
    """Number -> label of segments that share their colour with others, as lesions do: those are named in place."""
    users = Counter(segment.spec.rgb for segment in segments)
    return {one.number: one.label for one in segments if users[one.spec.rgb] > 1}


def _draw_outlines(axes: Axes, views: Views, index: int, named: Mapping[int, str]) -> None:
    for number, lines in plane_contours(views.labels.array[index]).items():
        # A dark rim sets the line off from bright bone.
        rim = withStroke(linewidth=(_LINE + 1.2) * _POINTS_PER_PIXEL, foreground="#00000088")
        collection = LineCollection(
            lines,
            colors=[tuple(views.rgb[number])],
            linewidths=_LINE * _POINTS_PER_PIXEL,
            path_effects=[rim],
        )
        axes.add_collection(collection, autolim=False)
        if number in named:
            _name(axes, views, named[number], max(lines, key=len))


def _name(axes: Axes, views: Views, label: str, line: Contour) -> None:
    """Write a segment's label beside its longest outline, to whichever side has room."""
    columns = views.image.spatial_shape[2]
    to_right = line[:, 0].mean() < columns / 2
    place = line[line[:, 0].argmax() if to_right else line[:, 0].argmin()]
    axes.annotate(
        label, (place[0], place[1]), xytext=(4 if to_right else -4, 0), textcoords="offset points",
        color=SCREEN.ink, family=FONT, fontsize=_NAME * _POINTS_PER_PIXEL, parse_math=False,
        ha="left" if to_right else "right", va="center", annotation_clip=True,
        path_effects=[withStroke(linewidth=2, foreground="black")],
    )  # fmt: skip


def _draw_letters(axes: Axes, views: Views) -> None:
    """Where the patient's left, back, head ... are, at the four edges."""
    down, right = views.image.direction[:, 1], views.image.direction[:, 2]
    for direction, x, y in (
        (-right, 0.012, 0.5),
        (right, 0.988, 0.5),
        (-down, 0.5, 0.988),
        (down, 0.5, 0.012),
    ):
        axes.text(
            x, y, letters(direction),
            transform=axes.transAxes, color=SCREEN.accent, family=FONT, weight="bold",
            fontsize=_LETTER * _POINTS_PER_PIXEL,
            ha={0.012: "left", 0.988: "right"}.get(x, "center"),
            va={0.012: "bottom", 0.988: "top"}.get(y, "center"),
            path_effects=[withStroke(linewidth=2, foreground="black")],
        )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class _Panel:
    """The text beside an image, written from top to bottom; lengths in pixels."""

    figure: Figure
    left: int
    #: Width and height of the whole picture.
    size: tuple[int, int]
    y: float = float(_MARGIN)

    def describe(self, views: Views, request: EvidenceRequest, index: int) -> None:
        """What is shown, where it is, and the segments in it."""
        manifest = request.manifest
        self.line(manifest.title, bold=True)
        self.line(f"{manifest.name} {manifest.version}", colour=SCREEN.faint)
        self.y += _ROW / 2
        self.line(_position(views, index))
        self.line(slice_name(request.source, index), colour=SCREEN.faint)
        self.y += _ROW / 2
        present = np.unique(views.labels.array[index])
        segments = [one for one in request.result.segments if one.number in present]
        self.legend(segments, {number for number, key in views.keys.items() if key == index})

    def legend(self, segments: Sequence[Segment], largest: set[int]) -> None:
        """Colour and name of each segment; those that are largest here say so."""
        room = int((self.size[1] - _FOOTER - self.y) // _ROW)
        shown = segments if len(segments) <= room else segments[: room - 1]
        for segment in shown:
            colour = "#{:02x}{:02x}{:02x}".format(*segment.spec.rgb)
            self.box(self.left, self.y + 4, (11, 11), colour)
            mark = " (largest here)" if segment.number in largest else ""
            self.line(f"{segment.label}{mark}", indent=18, lines=1)
        if len(shown) < len(segments):
            self.line(f"and {len(segments) - len(shown)} more", colour=SCREEN.faint)

    def footer(self) -> None:
        """The caution, below the image."""
        width, height = self.size
        self.box(0, height - _FOOTER, (width, _FOOTER), "#2a1d08")
        self.write(CAUTION, (_MARGIN, height - _FOOTER / 2), SCREEN.accent, bold=True)

    def line(
        self, text: str, *, colour: str = SCREEN.ink, bold: bool = False, indent: int = 0, lines: int = 2
    ) -> None:  # fmt: skip
        """Write a text in at most so many lines, cut where it is longer, and move on."""
        room = (self.size[0] - self.left - indent - _MARGIN / 2) * _POINTS_PER_PIXEL
        found = wrapped(text, room, _TEXT * _POINTS_PER_PIXEL, bold=bold)
        if len(found) > lines:
            found = [*found[: lines - 1], f"{found[lines - 1][:-1]}\u2026"]
        for part in found:
            self.write(part, (self.left + indent, self.y + _ROW / 2), colour, bold=bold)
            self.y += _ROW

    def write(self, text: str, place: tuple[float, float], colour: str, *, bold: bool) -> None:
        """One line, its middle at `place`."""
        self.figure.text(
            place[0] / self.size[0], 1 - place[1] / self.size[1], text,
            fontsize=_TEXT * _POINTS_PER_PIXEL, color=colour, family=FONT,
            weight="bold" if bold else "normal", va="center_baseline", parse_math=False,
        )  # fmt: skip

    def box(self, x: float, y: float, size: tuple[float, float], colour: str) -> None:
        """Fill a rectangle."""
        whole = self.size
        corner = (x / whole[0], 1 - (y + size[1]) / whole[1])
        self.figure.add_artist(
            Rectangle(
                corner, size[0] / whole[0], size[1] / whole[1],
                facecolor=colour, edgecolor="none", transform=self.figure.transFigure,
            )
        )  # fmt: skip


def _position(views: Views, index: int) -> str:
    """The plane and where its middle lies, e.g. `axial, z = -12.5 mm`."""
    _, rows, columns = views.image.spatial_shape
    middle = np.array([[index, (rows - 1) / 2, (columns - 1) / 2]])
    place = views.image.map_indices_to_reference(middle)[0]
    axis = int(np.abs(views.image.direction[:, 0]).argmax())
    return f"{plane_name(views.image)}, {'xyz'[axis]} = {place[axis]:.1f} mm"
