"""A picture of a result for people: the images, the segments over them, their volumes. It names nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from highdicom import Volume
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from pipelines.evidence.views import CAUTION, colours, window
from pipelines.result import AnalysisResult, SourceSeries

_MAIN_VIEWS = 4
#: Direction of the slices -> axis of a volume whose indices increase to Feet, Posterior, Left.
_AXES = {"H": 0, "F": 0, "A": 1, "P": 1, "L": 2, "R": 2}
_LEGEND_ENTRIES = 24
_FILL, _EDGE = 0.35, 0.95
_BACKGROUND = "#111418"


def overlay_picture(source: SourceSeries, result: AnalysisResult, path: Path) -> None:
    """Draw `overlay_figure` into a PNG file."""
    figure = overlay_figure(source, result)
    figure.suptitle(CAUTION, color="#ffb454", fontsize=14, y=0.98)
    figure.savefig(path, dpi=100, format="png", facecolor=_BACKGROUND)


def overlay_figure(
    source: SourceSeries,
    result: AnalysisResult,
    *,
    size: tuple[float, float] = (13.5, 10.0),
    legend: bool = True,
) -> Figure:
    """Axial, coronal and sagittal views with the segments in their colours: four of the series' own plane, one of each
    other.

    Views lie in the axes of the volume that are nearest to the patient's: a double-angulated series is shown on its
    own planes, not resampled. Left in a view is what its letters say.

    Parameters
    ----------
    source
        The input on whose grid the label map lies.
    result
        What was found; empty segments are listed with 0 mL.
    size
        Width and height in inches.
    legend
        Whether segments and volumes are listed below the views.
    """
    # Increasing indices go to Feet, Posterior, Left: the way radiologists look at images.
    images, labels = (
        volume.to_patient_orientation(("F", "P", "L"))
        for volume in (source.volume, result.label_map)
    )
    style = (*window(source), colours(result.segments))
    figure = Figure(figsize=size, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    top, bottom = (0.92, 0.12) if legend else (0.96, 0.02)
    grid = figure.add_gridspec(
        2, 3, left=0.02, right=0.98, top=top, bottom=bottom, wspace=0.06, hspace=0.1
    )
    main = _AXES[source.volume.get_closest_patient_orientation()[0].value]
    spots = [grid[row, column] for row in (0, 1) for column in (0, 1)]
    for spot, index in zip(spots, _quarter_indices(labels.array, main), strict=False):
        _draw(figure.add_subplot(spot), images, labels, (main, index), style)
    for row, axis in enumerate(axis for axis in range(3) if axis != main):
        index = _fullest(labels.array, axis)
        _draw(figure.add_subplot(grid[row, 2]), images, labels, (axis, index), style)
    if legend:
        _legend(figure, result)
    return figure


def _quarter_indices(labels: NDArray[Any], axis: int) -> list[int]:
    """The fullest plane in each quarter of the segmented range; the range is everything if nothing is segmented."""
    filled = _counts(labels, axis)
    present = np.flatnonzero(filled)
    first, last = (present[0], present[-1]) if present.size else (0, labels.shape[axis] - 1)
    parts = [part for part in np.array_split(np.arange(first, last + 1), _MAIN_VIEWS) if part.size]
    if not present.size:
        return [int(part[part.size // 2]) for part in parts]
    return [int(part[filled[part].argmax()]) for part in parts]


def _fullest(labels: NDArray[Any], axis: int) -> int:
    filled = _counts(labels, axis)
    return int(filled.argmax()) if filled.any() else labels.shape[axis] // 2


def _counts(labels: NDArray[Any], axis: int) -> NDArray[np.int64]:
    others = tuple(other for other in range(3) if other != axis)
    counts: NDArray[np.int64] = np.count_nonzero(labels, axis=others)
    return counts


def _draw(
    axes: Axes,
    images: Volume,
    labels: Volume,
    place: tuple[int, int],
    style: tuple[float, float, NDArray[np.float64]],
) -> None:
    """One view across `place` (axis, index)."""
    axis, index = place
    low, high, rgb = style
    image, label = (np.take(volume.array, index, axis=axis) for volume in (images, labels))
    rows, columns = (size for other, size in enumerate(images.spacing) if other != axis)
    axes.imshow(
        image, cmap="gray", vmin=low, vmax=high, aspect=rows / columns, interpolation="nearest"
    )
    axes.imshow(_paint(label, rgb), aspect=rows / columns, interpolation="nearest")
    axes.set_axis_off()
    name, left, right, top, bottom = (
        ("axial", "R", "L", "A", "P"),
        ("coronal", "R", "L", "S", "I"),
        ("sagittal", "A", "P", "S", "I"),
    )[axis]
    centre = np.array(images.spatial_shape) // 2
    centre[axis] = index
    millimetres = images.map_indices_to_reference(centre[None])[0]
    # LPS: the component across the view, at its centre.
    across = float(millimetres[(2, 1, 0)[axis]])
    axes.set_title(f"{name}, {'zyx'[axis]} = {across:.1f} mm", color="white", fontsize=10)
    for text, x, y in (
        (left, 0.02, 0.5),
        (right, 0.98, 0.5),
        (top, 0.5, 0.98),
        (bottom, 0.5, 0.02),
    ):
        axes.text(
            x,
            y,
            text,
            transform=axes.transAxes,
            color="#ffd166",
            fontsize=12,
            fontweight="bold",
            ha={0.02: "left", 0.98: "right"}.get(x, "center"),
            va={0.98: "top", 0.02: "bottom"}.get(y, "center"),
            bbox={"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1.5},
        )


def _paint(label: NDArray[Any], rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """RGBA of a view: segments translucent, their outlines not; shape (rows, columns, 4)."""
    edge = np.zeros(label.shape, bool)
    for axis in (0, 1):
        step = np.diff(label.astype(np.int32), axis=axis) != 0
        after = tuple(slice(1, None) if axis == other else slice(None) for other in (0, 1))
        before = tuple(slice(None, -1) if axis == other else slice(None) for other in (0, 1))
        edge[after] |= step
        edge[before] |= step
    alpha = np.where(label > 0, np.where(edge, _EDGE, _FILL), 0.0)
    return np.dstack([rgb[label], alpha])


def _legend(figure: Figure, result: AnalysisResult) -> None:
    counts = np.zeros(len(result.segments) + 1, np.int64)
    for plane in result.label_map.array:
        counts += np.bincount(plane[plane > 0], minlength=counts.size)
    millilitres = counts * float(result.label_map.voxel_volume) / 1000
    handles = [
        Patch(
            color="#{:02x}{:02x}{:02x}".format(*segment.spec.rgb),
            label=f"{segment.label}: {millilitres[segment.number]:,.1f} mL",
        )
        for segment in result.segments
    ]
    left_out = len(handles) - _LEGEND_ENTRIES
    if left_out > 0:
        handles = [
            *handles[:_LEGEND_ENTRIES],
            Patch(color=_BACKGROUND, label=f"and {left_out} more"),
        ]
    if handles:
        entries = figure.legend(
            handles=handles,
            loc="lower center",
            ncols=min(len(handles), 5),
            frameon=False,
            labelcolor="white",
            fontsize=11 if len(handles) <= 10 else 9,
        )
        for text in entries.get_texts():
            # A dollar sign in a label is one.
            text.set_parse_math(False)
