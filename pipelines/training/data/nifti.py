"""NIfTI pairs: nnU-Net's folders, or `*_image` beside `*_label`."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from highdicom import Volume
from numpy.typing import NDArray

from pipelines.errors import TrainingError
from pipelines.manifest import Manifest
from pipelines.training.case import Case
from pipelines.training.data.placing import place_labels
from pipelines.training.data.reference import CaseRef

# SimpleITK ships no types.
_sitk: Any = SimpleITK

_ENDINGS = (".nii.gz", ".nii")
_INT16 = np.iinfo(np.int16)
#: NIfTI's `datatype` of numbers that may be none.
_FLOATS = {"16": "f4", "64": "f8"}


def has_nifti(folder: Path) -> bool:
    """Whether there is a NIfTI file in a folder or below it."""
    return any(path.name.endswith(_ENDINGS) for path in folder.rglob("*.nii*"))


def find_nifti_cases(
    folder: Path, manifest: Manifest, *, skip_unknown: bool = False
) -> tuple[CaseRef, ...]:
    """Return the pairs of a folder in the order of their file names, named by a hash of the image file.

    Not by a number: another file in the folder would give a finished run's held-out names to other studies.

    Label values are the manifest's segment numbers; where nnU-Net's `dataset.json` names them, its names are
    matched to the manifest's labels instead.

    Raises
    ------
    TrainingError
        `training-data-invalid`, for an image or label without the other, or an image file that cannot be read;
        `training-label-unknown`, for a name in `dataset.json` that the manifest does not have.
    """
    table = folder / "dataset.json"
    numbers = (
        _numbers_of(table, manifest, skip_unknown=skip_unknown)
        if table.is_file()
        else {segment.number: segment.number for segment in manifest.segments}
    )
    return tuple(
        CaseRef(
            name=name,
            subject=name,
            load=partial(_load, name, paths, folder, numbers, skip_unknown=skip_unknown),
        )
        for paths in _pairs(folder)
        for name in (_name_of(paths[0], folder),)
    )


def _name_of(image: Path, folder: Path) -> str:
    try:
        with image.open("rb") as file:
            return f"case-{file_digest(file, 'sha256').hexdigest()[:12]}"
    except OSError as error:
        raise TrainingError(
            f"{image.relative_to(folder)}: cannot be read ({error.strerror}).",
            code="training-data-invalid",
        ) from error


def _pairs(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Image and label files, by name."""
    if (folder / "imagesTr").is_dir():
        labels = _by_stem(folder / "labelsTr", "")
        images = _by_stem(folder / "imagesTr", "_0000")
        other = [
            path for path in _nifti(folder / "imagesTr") if re.search(r"_000[1-9]\.nii", path.name)
        ]
        if other:
            raise TrainingError(
                f"{other[0].relative_to(folder)}: is a second channel; pipelines take one image (_0000).",
                code="training-data-invalid",
            )
    else:
        labels, images = _by_stem(folder, "_label"), _by_stem(folder, "_image")
    for stem in sorted(images.keys() ^ labels.keys()):
        path = images.get(stem) or labels[stem]
        missing = "label" if stem in images else "image"
        raise TrainingError(
            f"{path.relative_to(folder)}: has no {missing} of the same name; add it, or move the file away.",
            code="training-data-invalid",
        )
    for stem in sorted(images):
        yield images[stem], labels[stem]


def _nifti(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.nii*") if path.name.endswith(_ENDINGS)]


def _by_stem(folder: Path, ending: str) -> dict[str, Path]:
    """Name (with its folder) without `ending` -> file."""
    found = {}
    for path in _nifti(folder):
        stem = path.name.partition(".nii")[0]
        if stem.endswith(ending):
            found[str(path.relative_to(folder).with_name(stem.removesuffix(ending)))] = path
    return found


def _numbers_of(table: Path, manifest: Manifest, *, skip_unknown: bool) -> dict[int, int]:
    """Value in the files -> segment number, by the names in nnU-Net's table."""
    known = {_plain(segment.label): segment.number for segment in manifest.segments}
    try:
        labels = json.loads(table.read_text("utf-8"))["labels"]
        # Version 1 of the format has value -> name, version 2 name -> value.
        named = {
            (str(value), int(key)) if str(key).isdecimal() else (str(key), int(value))
            for key, value in labels.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{table.name}: has no usable table `labels` of names and values; correct it, or remove the file where "
            "the values are the pipeline's segment numbers.",
            code="training-data-invalid",
        ) from error
    numbers = {}
    for name, value in sorted(named):
        if value == 0:
            continue
        if _plain(name) in known:
            numbers[value] = known[_plain(name)]
        elif not skip_unknown:
            raise TrainingError(
                f"{table.name}: label {name!r} is none of the pipeline's: "
                f"{', '.join(segment.label for segment in manifest.segments)}. Rename it, or give --skip-unknown.",
                code="training-label-unknown",
            )
    return numbers


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _load(
    name: str,
    paths: tuple[Path, Path],
    folder: Path,
    numbers: Mapping[int, int],
    *,
    skip_unknown: bool,
) -> Case:
    image, labels = (_read(path, folder) for path in paths)
    label_name = str(paths[1].relative_to(folder))
    placed = place_labels(labels, image, label_name)
    return Case(
        name=name,
        image=image.with_array(_modality_values(image.array)),
        labels=image.with_array(
            _renumbered(placed.array, numbers, label_name, skip_unknown=skip_unknown)
        ),
    )


def _read(path: Path, folder: Path) -> Volume:
    """A NIfTI file, axes (third, second, first) of the file: slice, row, column as converters write them."""
    name = path.relative_to(folder)
    try:
        image = _sitk.ReadImage(str(path))
        codes = [
            int(float(image.GetMetaData(key))) if image.HasMetaDataKey(key) else 0
            for key in ("sform_code", "qform_code")
        ]
        wrong = _no_numbers(path, image)
        if image.GetDimension() == 4 and image.GetSize()[3] == 1:
            image = image[:, :, :, 0]
        volume = Volume.from_simpleitk(image).permute_spatial_axes((2, 1, 0))
    except (RuntimeError, ValueError, OSError, EOFError, zlib.error) as error:
        raise TrainingError(
            f"{name}: cannot be read as a volume in space ({_last_line(error)}).",
            code="training-data-invalid",
        ) from error
    if not any(codes):
        raise TrainingError(
            f"{name}: does not say where it lies (sform_code and qform_code are 0); convert it again from DICOM.",
            code="training-data-invalid",
        )
    if wrong:
        raise TrainingError(
            f"{name}: {wrong} voxels are no numbers (NaN or infinite); write there what the modality has for air, or "
            "move the pair away.",
            code="training-data-invalid",
        )
    return volume


def _no_numbers(path: Path, image: Any) -> int:
    """How many voxels of a file are NaN or infinite; ITK reads them, and what is cut off, as 0 and does not say so.

    Raises
    ------
    EOFError
        When the file ends before its voxels do.
    """
    length = image.GetNumberOfPixels() * int(image.GetMetaData("bitpix")) // 8
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        size = file.read(4)
        # sizeof_hdr tells the byte order: 348 in NIfTI-1, 540 in NIfTI-2.
        order = "<" if int.from_bytes(size, "little") in (348, 540) else ">"
        file.seek(int(float(image.GetMetaData("vox_offset"))))
        stored = file.read(length)
    if len(stored) < length:
        raise EOFError("it is cut off")
    kind = _FLOATS.get(image.GetMetaData("datatype"))
    return (
        int(np.count_nonzero(~np.isfinite(np.frombuffer(stored, f"{order}{kind}")))) if kind else 0
    )


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()[-200:]


def _modality_values(array: NDArray[Any]) -> NDArray[Any]:
    """int16 where that is exact, else float32."""
    if array.dtype.kind in "iu" and _INT16.min <= array.min() and array.max() <= _INT16.max:
        return array.astype(np.int16)
    values: NDArray[Any] = array.astype(np.float32)
    if np.array_equal(np.trunc(values), values) and np.abs(values).max() <= _INT16.max:
        return values.astype(np.int16)
    return values


def _renumbered(
    array: NDArray[Any], numbers: Mapping[int, int], name: str, *, skip_unknown: bool
) -> NDArray[np.uint8]:
    result = np.zeros(array.shape, np.uint8)
    for value in np.unique(array):
        if value == 0:
            continue
        if value in numbers:
            result[array == value] = numbers[int(value)]
        elif not skip_unknown:
            raise TrainingError(
                f"{name}: label value {value:g} is none of the pipeline's: {', '.join(map(str, sorted(numbers)))}. "
                "Correct the labels, or give --skip-unknown.",
                code="training-label-unknown",
            )
    return result
