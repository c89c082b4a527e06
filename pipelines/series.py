"""Files of one series -> a volume in patient space: `read_series`.

A series is single-frame images, or one multi-frame reconstruction of nuclear medicine (`reconstruction`).

This is the door of the pipelines: what passes has pixels, modality values and a regular place in space, and what
does not is refused with a code and a sentence that names the instance. Behind it nobody checks again.

Pixels under Pixel Padding Value (0028,0120) stay what the rescale makes of them: the header that says so is kept,
and only a pipeline knows what is outside for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array

from pipelines.errors import InputError
from pipelines.geometry import fit_grid
from pipelines.reconstruction import is_nuclear, place_frames
from pipelines.result import SourceSeries

_INT16 = np.iinfo(np.int16)
#: What reading a damaged or foreign file raises.
_READ_ERRORS = (
    InvalidDicomError,
    BytesLengthException,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    NotImplementedError,
    struct.error,
)
#: What decoders raise on damaged, truncated or unsupported pixel data; pydicom wraps those of its plug-ins.
_DECODE_ERRORS = (
    RuntimeError,
    ValueError,
    AttributeError,
    KeyError,
    TypeError,
    NotImplementedError,
    OverflowError,
    OSError,
    EOFError,
)
#: What is read of a header besides its pixels: parsed at the door, where a damaged element has an answer.
_HEADER = (
    "Rows",
    "Columns",
    "FrameOfReferenceUID",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
)


def read_series(files: Sequence[Path]) -> SourceSeries:
    """Read the images of one series as a volume.

    Parameters
    ----------
    files
        DICOM files of one series, in any order and any transfer syntax that can be decoded: single-frame images, or
        one multi-frame NM image (RECON TOMO).

    Returns
    -------
    SourceSeries
        Modality values (PS3.3 C.11.1; NM: what the camera calls its values), int16 where that is exact, else float32;
        axes (slice, row, column), slices by increasing position along the normal (row x column cosines); affine in LPS
        mm. Pixel padding is kept.

    Raises
    ------
    InputError
        When the files are no volume; the code says why, the sentence names the instance. Tolerances are those of
        `pipelines.geometry`.
    """
    datasets = [_read(path, number) for number, path in enumerate(files, start=1)]
    if any(is_nuclear(ds) for ds in datasets):
        return _read_reconstruction(datasets)
    if len(files) < 2:
        raise InputError(
            f"The series has {len(files)} image(s): a volume needs two at least.",
            code="input-too-few-slices",
        )
    _demand_one_series(datasets)
    grid = fit_grid(datasets)
    ordered = [datasets[index] for index in grid.order]
    _demand_readable(ordered[0])
    volume = Volume(
        array=_modality_values(ordered),
        affine=grid.affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=ordered[0].get("FrameOfReferenceUID") or None,
    )
    return SourceSeries(volume=volume, datasets=tuple(ordered))


def _read_reconstruction(datasets: Sequence[Dataset]) -> SourceSeries:
    """One multi-frame object is the whole series; each frame gets a header as a slice of its own would have."""
    if len(datasets) > 1:
        raise InputError(
            f"The series has {len(datasets)} images of nuclear medicine, each a volume: send the one that is meant.",
            code="input-several-volumes",
        )
    ds = datasets[0]
    _demand_readable(ds)
    placed = place_frames(ds)
    values = _frames(ds)[[number - 1 for number in placed.frame_numbers]]
    volume = Volume(
        array=values,
        affine=placed.affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=ds.get("FrameOfReferenceUID") or None,
    )
    slices = []
    for index in range(len(placed.frame_numbers)):
        one = Dataset()
        one.update(ds)
        one.file_meta = ds.file_meta
        one.ImageOrientationPatient = [f"{value:.10g}" for value in placed.orientation]
        one.ImagePositionPatient = [f"{value:.10g}" for value in placed.position(index)]
        slices.append(one)
    return SourceSeries(
        volume=volume, datasets=tuple(slices), frame_numbers=tuple(placed.frame_numbers)
    )


def _read(path: Path, number: int) -> Dataset:
    try:
        ds = dcmread(path)
        # The header is parsed on access; a file without these is no composite instance at all.
        _ = (ds.SOPInstanceUID, ds.SOPClassUID, ds.SeriesInstanceUID, ds.StudyInstanceUID)
        _ = ds.file_meta.TransferSyntaxUID.name
        _ = [ds.get(keyword) for keyword in _HEADER]
        _demand_slice(ds)
    except _READ_ERRORS as error:
        # The name of the file may name the patient: say its place in the list instead.
        raise InputError(
            f"File {number} of the series cannot be read as DICOM ({type(error).__name__}).",
            code="input-unreadable",
        ) from error
    return ds


def _demand_readable(ds: Dataset) -> None:
    """The first slice says whose all evidence is: a damaged element of it is refused, not left out."""
    try:
        for _ in ds:
            pass
    except _READ_ERRORS as error:
        raise InputError(
            f"The header of instance {ds.SOPInstanceUID} has a damaged element ({type(error).__name__}).",
            code="input-unreadable",
        ) from error


def _demand_slice(ds: Dataset) -> None:
    """One instance must be a grey single-frame image that can be part of a volume."""
    uid = ds.SOPInstanceUID
    sizes = (ds.get("Rows"), ds.get("Columns"))
    if "PixelData" not in ds or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise InputError(
            f"Instance {uid} is no image: it has no Rows, Columns or Pixel Data.",
            code="input-no-pixels",
        )
    several = int(ds.get("NumberOfFrames") or 1) != 1 and not is_nuclear(ds)
    if "SharedFunctionalGroupsSequence" in ds or several:
        raise InputError(
            f"Instance {uid} is a multi-frame image; of these only reconstructions of nuclear medicine are read.",
            code="input-multi-frame",
        )
    photometric = str(ds.get("PhotometricInterpretation", ""))
    if ds.get("SamplesPerPixel") != 1 or not photometric.startswith("MONOCHROME"):
        raise InputError(
            f"Instance {uid} is no grey image (Photometric Interpretation {photometric or 'missing'}).",
            code="input-colour",
        )
    # PS3.3 C.8.2.1.1.1: value 3 of Image Type.
    if "LOCALIZER" in (ds.get("ImageType") or ()):
        raise InputError(f"Instance {uid} is a localizer (Image Type).", code="input-localizer")
    if (
        ds.get("Modality") == "CT"
        and "ModalityLUTSequence" not in ds
        and (ds.get("RescaleSlope") is None or ds.get("RescaleIntercept") is None)
    ):
        # PS3.3 C.8.2.1: Type 1 in CT; without them the values are no Hounsfield units.
        raise InputError(
            f"Instance {uid} is CT without Rescale Slope and Intercept.", code="input-no-rescale"
        )


def _demand_one_series(datasets: Sequence[Dataset]) -> None:
    """Attributes that all instances of a volume share."""
    first = datasets[0]
    for keyword, code in (
        ("SeriesInstanceUID", "input-mixed-series"),
        ("Rows", "input-mixed-matrix"),
        ("Columns", "input-mixed-matrix"),
        ("FrameOfReferenceUID", "input-mixed-frame-of-reference"),
    ):
        for ds in datasets:
            if ds.get(keyword) != first.get(keyword):
                raise InputError(
                    f"Instance {ds.SOPInstanceUID} has another {keyword} than instance {first.SOPInstanceUID}.",
                    code=code,
                )
    twice = _first_repeated(str(ds.SOPInstanceUID) for ds in datasets)
    if twice is not None:
        raise InputError(f"Instance {twice} is given twice.", code="input-duplicate-instance")


def _first_repeated(uids: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for uid in uids:
        if uid in seen:
            return uid
        seen.add(uid)
    return None


# -- pixels -------------------------------------------------------------------------------------


def _modality_values(datasets: Sequence[Dataset]) -> NDArray[Any]:
    """Decode slice by slice, dropping each Pixel Data; shape (slices, rows, columns), int16 or float32."""
    shape = (len(datasets), int(datasets[0].Rows), int(datasets[0].Columns))
    stack: NDArray[Any] = np.empty(shape, np.int16)
    for index, ds in enumerate(datasets):
        try:
            values = _rescaled(ds, _stored_values(ds))
        except _DECODE_ERRORS as error:
            raise InputError(
                f"The pixels of instance {ds.SOPInstanceUID} cannot be decoded "
                f"({ds.file_meta.TransferSyntaxUID.name}): {error}",
                code="input-unreadable-pixels",
            ) from error
        if stack.dtype == np.int16 and not _is_int16(values):
            # One slice that does not fit makes all of them float32, which holds every int16 exactly.
            stack = stack.astype(np.float32)
        stack[index] = values
        del ds.PixelData
    return stack


def _frames(ds: Dataset) -> NDArray[Any]:
    """Values of a multi-frame image, dropping its Pixel Data; shape (frames, rows, columns), int16 or float32."""
    try:
        values = _rescaled(ds, pixel_array(ds))
    except _DECODE_ERRORS as error:
        raise InputError(
            f"The pixels of instance {ds.SOPInstanceUID} cannot be decoded "
            f"({ds.file_meta.TransferSyntaxUID.name}): {error}",
            code="input-unreadable-pixels",
        ) from error
    del ds.PixelData
    return values.astype(np.int16 if _is_int16(values) else np.float32)


def _is_int16(values: NDArray[Any]) -> bool:
    return bool(
        np.issubdtype(values.dtype, np.integer)
        and values.min() >= _INT16.min
        and values.max() <= _INT16.max
    )


def _rescaled(ds: Dataset, stored: NDArray[Any]) -> NDArray[Any]:
    """Modality values of one slice (PS3.3 C.11.1): integers where the rescale is made of integers."""
    if "ModalityLUTSequence" in ds:
        looked_up: NDArray[Any] = apply_modality_lut(stored, ds)
        return looked_up
    slope = float(ds.get("RescaleSlope", 1) or 0)
    intercept = float(ds.get("RescaleIntercept", 0) or 0)
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise ValueError("Rescale Slope is zero or no number")
    if (slope, intercept) == (1, 0):
        return stored
    if slope.is_integer() and intercept.is_integer():
        return stored.astype(np.int64 if stored.itemsize > 2 else np.int32) * int(slope) + int(
            intercept
        )
    return (stored * slope + intercept).astype(np.float32)


def _stored_values(ds: Dataset) -> NDArray[Any]:
    """Stored values of one slice; shape (rows, columns)."""
    syntax = ds.file_meta.TransferSyntaxUID
    allocated, stored = int(ds.BitsAllocated), int(ds.BitsStored)
    if stored < 1 or ds.PixelRepresentation not in (0, 1):
        raise ValueError("Bits Stored or Pixel Representation has no such value")
    if syntax.is_compressed or not syntax.is_little_endian or allocated not in (8, 16):
        return pixel_array(ds)
    # Uncompressed little endian: pydicom's checks cost three times the copy, and most CT is this.
    signed = bool(ds.PixelRepresentation)
    dtype = np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}")
    rows, columns = int(ds.Rows), int(ds.Columns)
    expected = rows * columns * dtype.itemsize
    if len(ds.PixelData) < expected:
        raise ValueError(f"{len(ds.PixelData)} bytes of Pixel Data instead of {expected}")
    values = np.frombuffer(ds.PixelData, dtype, count=rows * columns).reshape(rows, columns)
    if stored < allocated:
        # PS3.5 8.1.1: the bits above High Bit may hold anything (once: overlays).
        spare = allocated - stored
        values = np.right_shift(np.left_shift(values, spare), spare)
    return values
