"""Every form of a SEG, and sources of every geometry it can have."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import enhanced
import numpy as np
import volumes
from highdicom import Volume

from pipelines.evidence.profile import Compression, SegmentationType
from pipelines.evidence.seg import SegForm
from pipelines.result import SourceSeries
from pipelines.series import read_series
from pipelines.training.phantoms.dicom import SeriesOptions, ct_series
from pipelines.training.phantoms.spect_dicom import write_nm_series

FORMS = {
    f"{segmentation}, {compression}": SegForm(segmentation=segmentation, compression=compression)
    for segmentation in (SegmentationType.BINARY, SegmentationType.LABELMAP)
    for compression in Compression
    if (segmentation, compression) != (SegmentationType.BINARY, Compression.JPEG_LS)
}


def _series(folder: Path, orientation: str, *, reverse: bool) -> SourceSeries:
    options = SeriesOptions(reverse=reverse)
    return read_series(volumes.write_series(folder, orientation=orientation, options=options))


def _enhanced(folder: Path, modality: str) -> SourceSeries:
    return read_series(enhanced.write_enhanced(folder, "oblique", modality))


def _nuclear(folder: Path) -> SourceSeries:
    return read_series(write_nm_series(volumes.make_volume("oblique"), folder, seed=7))


def _one_slice(folder: Path) -> SourceSeries:
    """`read_series` wants two: a pipeline of single images makes its own."""
    source = _series(folder, "oblique", reverse=False)
    return SourceSeries(volume=source.volume[1:2], datasets=source.datasets[1:2])


@cache
def _two_thousand_slices() -> SourceSeries:
    array = np.full((2000, 9, 13), 40, np.int16)
    array[100:1900, 2:5, 1:7] = 400
    array[5:1000, 5:8, 8:12] = 700
    affine = np.diag([0.5, 0.8, 0.7, 1.0])[[2, 1, 0, 3]]
    made = Volume(array=array, affine=affine, coordinate_system="PATIENT")
    datasets = ct_series(made, seed=3)
    volume = Volume(
        array=array,
        affine=affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=datasets[0].FrameOfReferenceUID,
    )
    return SourceSeries(volume=volume, datasets=tuple(datasets))


#: Name -> a source made in a folder. What is no grid is refused at the door: see the tests of series.
SOURCES: dict[str, Callable[[Path], SourceSeries]] = {
    **{name: partial(_series, orientation=name, reverse=False) for name in volumes.ORIENTATIONS},
    **{
        f"{name}, last slice first": partial(_series, orientation=name, reverse=True)
        for name in volumes.ORIENTATIONS
    },
    "enhanced CT": partial(_enhanced, modality="CT"),
    "enhanced MR": partial(_enhanced, modality="MR"),
    "NM": _nuclear,
    "one slice": _one_slice,
    "2,000 slices": lambda _: _two_thousand_slices(),
}
