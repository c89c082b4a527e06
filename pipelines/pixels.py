"""Pixel Data of source images -> modality values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array

from pipelines.errors import InputError, shown
from pipelines.reading import READ_ERRORS

_INT16 = np.iinfo(np.int16)
#: What decoders raise on damaged, truncated or unsupported pixel data; pydicom wraps those of its plug-ins.
_DECODE_ERRORS = (RuntimeError, *READ_ERRORS)
#: What Python and pydicom repeat of a value they cannot take; of a damaged file it may be a name.
_QUOTED = re.compile(r"b?'[^']*'|b?\"[^\"]*\"")


def modality_values(datasets: Sequence[Dataset]) -> NDArray[Any]:
    """Decode single-frame images of one matrix, dropping the Pixel Data of each.

    Returns
    -------
    numpy.ndarray
        Modality values (PS3.3 C.11.1), shape (slices, rows, columns), int16 where that is exact, else float32.

    Raises
    ------
    InputError
        `input-unreadable-pixels`, naming the instance.
    """
    shape = (len(datasets), int(datasets[0].Rows), int(datasets[0].Columns))
    stack: NDArray[Any] = np.empty(0, np.int16)
    for index, ds in enumerate(datasets):
        with _decoding(ds):
            values = _rescaled(ds, _stored_values(ds))
            if values.shape != shape[1:]:
                raise ValueError(f"{values.shape} pixels instead of {shape[1:]}")
        if index == 0:
            # Not before: Rows and Columns may say anything, and memory for that would be looked for.
            stack = np.empty(shape, np.int16)
        if stack.dtype == np.int16 and not _is_int16(values):
            # One slice that does not fit makes all of them float32, which holds every int16 exactly.
            stack = stack.astype(np.float32)
        stack[index] = values
        del ds.PixelData
    return stack


def frame_values(ds: Dataset, headers: Sequence[Dataset] = ()) -> NDArray[Any]:
    """Decode a multi-frame image, dropping its Pixel Data.

    Parameters
    ----------
    ds
        The image.
    headers
        What the values of each frame mean, where that is not said once for all of them.

    Returns
    -------
    numpy.ndarray
        Modality values (PS3.3 C.11.1), shape (frames, rows, columns), int16 where that is exact, else float32.

    Raises
    ------
    InputError
        `input-unreadable-pixels`.
    """
    with _decoding(ds):
        stored = pixel_array(ds)
        values = (
            np.stack([_rescaled(*pair) for pair in zip(headers, stored, strict=True)])
            if headers
            else _rescaled(ds, stored)
        )
    del ds.PixelData
    return values.astype(np.int16 if _is_int16(values) else np.float32)


@contextmanager
def _decoding(ds: Dataset) -> Iterator[None]:
    """What decoders raise, as a refusal."""
    try:
        yield
    except _DECODE_ERRORS as error:
        raise _undecodable(ds, error) from error
    except BaseException as error:
        # pylibjpeg-rle, which is Rust, panics of a segment that is too long: by a class of no module, under no other.
        if type(error).__name__ != "PanicException":
            raise
        raise _undecodable(ds, error) from error


def _undecodable(ds: Dataset, error: BaseException) -> InputError:
    reason = shown(_QUOTED.sub("'...'", str(error)), 300)
    return InputError(
        f"The pixels of instance {shown(ds.SOPInstanceUID)} cannot be decoded "
        f"({shown(ds.file_meta.TransferSyntaxUID.name)}): {type(error).__name__}: {reason}",
        code="input-unreadable-pixels",
    )


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
