"""The picture: every segment where its letters say, empty results too, and nobody named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import volumes
from matplotlib.image import imread
from numpy.typing import NDArray

from pipelines.evidence.overlay import overlay_figure, overlay_picture
from pipelines.result import AnalysisResult, SourceSeries
from pipelines.series import read_series

MAGENTA = (255, 0, 255)


def _draw(
    source: SourceSeries, result: AnalysisResult, path: Path
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The picture as floats, shape (rows, columns, 4), and where it is magenta."""
    overlay_picture(source, result, path)
    picture: NDArray[Any] = imread(path)
    red, green, blue = (picture[..., channel] for channel in range(3))
    return picture, (red > 0.85) & (blue > 0.85) & (green < 0.15)


@pytest.mark.parametrize("orientation", volumes.ORIENTATIONS)
def test_left_anterior_superior_is_drawn_there(tmp_path: Path, orientation: str) -> None:
    source = read_series(volumes.write_series(tmp_path, orientation=orientation))
    centre = source.volume.center_position
    places = source.volume.map_indices_to_reference(
        np.argwhere(np.ones(volumes.SHAPE, bool))
    ) - np.array(centre)
    # LPS: left is +x, anterior is -y, superior is +z.
    inside = (places[:, 0] > 2) & (places[:, 1] < -2) & (places[:, 2] > 2)
    labels = inside.reshape(volumes.SHAPE).astype(np.uint8)
    specs = (volumes.make_spec(1, rgb=MAGENTA),)
    result = volumes.make_result(source, specs, source.volume.with_array(labels))

    _, magenta = _draw(source, result, tmp_path / "overlay.png")

    rows, columns = magenta.shape
    # Cells of the layout: views of the own plane left, of the others top right and bottom right.
    top, bottom = (
        slice(int(rows * 0.08), int(rows * 0.49)),
        slice(int(rows * 0.49), int(rows * 0.9)),
    )
    left, right = slice(columns // 3), slice(2 * columns // 3, None)
    cells = (magenta[top, left], magenta[top, right], magenta[bottom, right])
    titles = [axes.get_title().partition(",")[0] for axes in overlay_figure(source, result).axes]
    shown = dict(zip([titles[0], *titles[-2:]], cells, strict=True))
    assert shown.keys() == {"axial", "coronal", "sagittal"}
    for plane, view in shown.items():
        found_rows, found_columns = np.nonzero(view)
        # The front is left in sagittal views, up in axial ones.
        assert (found_columns.mean() > view.shape[1] / 2) == (plane != "sagittal")
        assert found_rows.mean() < view.shape[0] / 2


def test_an_empty_result_is_drawn_too(tmp_path: Path) -> None:
    source = read_series(volumes.write_series(tmp_path))
    specs = [volumes.make_spec(number, rgb=MAGENTA) for number in range(1, 30)]
    nothing = source.volume.with_array(np.zeros(volumes.SHAPE, np.uint8))
    picture, magenta = _draw(
        source, volumes.make_result(source, specs, nothing), tmp_path / "overlay.png"
    )
    assert picture.shape[:2] == (1000, 1350)
    # Nothing but the legend is coloured.
    assert not magenta[: int(len(magenta) * 0.85)].any()
    assert magenta[int(len(magenta) * 0.85) :].any()


def test_no_name_is_in_the_file(tmp_path: Path) -> None:
    source = read_series(volumes.write_series(tmp_path))
    specs = (volumes.make_spec(1), volumes.make_spec(2))
    path = tmp_path / "overlay.png"
    overlay_picture(source, volumes.make_result(source, specs), path)
    ds = source.datasets[0]
    content = path.read_bytes()
    for value in (ds.PatientName, ds.PatientID, ds.AccessionNumber, ds.StudyInstanceUID):
        assert str(value).encode() not in content


@pytest.mark.parametrize(
    ("orientation", "main"), [("axial", "axial"), ("coronal", "coronal"), ("sagittal", "sagittal")]
)
def test_four_views_are_of_the_series_own_plane(
    tmp_path: Path, orientation: str, main: str
) -> None:
    """A thick sagittal stack says nothing in axial planes."""
    source = read_series(volumes.write_series(tmp_path, orientation=orientation))
    result = volumes.make_result(source, (volumes.make_spec(1), volumes.make_spec(2)))
    figure = overlay_figure(source, result, legend=False)
    names = [axes.get_title().partition(",")[0] for axes in figure.axes]
    assert names[:4] == [main] * 4
    assert sorted(names) == sorted([*[main] * 3, "axial", "coronal", "sagittal"])
