"""What the tests of evidence for people share: sources of every form, and the text that a page was given."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import volumes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from pipelines.evidence.proof import encode
from pipelines.evidence.request import EvidenceRequest
from pipelines.result import SourceSeries
from pipelines.series import read_series
from pipelines.training.phantoms.spect_dicom import write_nm_series

#: On every slice, so that no test passes for want of a name.
PATIENT = {
    "PatientName": "Secretname^Given",
    "PatientID": "SECRET-ID-4711",
    "PatientBirthDate": "19010203",
}


def named_source(folder: Path, orientation: str = "axial") -> SourceSeries:
    """A CT of somebody."""

    def name(datasets: list[Dataset]) -> None:
        for ds in datasets:
            for keyword, value in PATIENT.items():
                setattr(ds, keyword, value)

    return read_series(volumes.write_series(folder, orientation=orientation, change=name))


def nm_source(folder: Path) -> SourceSeries:
    """One multi-frame image."""
    return read_series(write_nm_series(volumes.make_volume(), folder, seed=7))


def nothing_found(source: SourceSeries) -> EvidenceRequest:
    """A result without a voxel."""
    specs = (volumes.make_spec(1), volumes.make_spec(2))
    nothing = source.volume.with_array(np.zeros(volumes.SHAPE, np.uint8))
    return volumes.make_request(
        source, specs=specs, result=volumes.make_result(source, specs, nothing)
    )


def received(ds: Dataset) -> Dataset:
    """The object as a receiver reads it."""
    return dcmread(BytesIO(encode(ds)))


def texts(figures: Iterable[Figure]) -> list[str]:
    """Everything written on drawings, those on axes included."""
    return [
        text.get_text()
        for figure in figures
        for text in (*figure.texts, *(text for axes in figure.axes for text in axes.texts))
    ]


def pixels(ds: Dataset) -> NDArray[np.uint8]:
    """RGB of a native capture: no code of ours or of a decoder."""
    shape = (int(ds.Rows), int(ds.Columns), 3)
    return np.frombuffer(ds.PixelData, np.uint8)[: np.prod(shape)].reshape(shape)
