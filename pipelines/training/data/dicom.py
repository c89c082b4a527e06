"""DICOM series with DICOM SEG labels: what a hospital has."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from highdicom import Volume
from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import MediaStorageDirectoryStorage, SegmentationStorage

from pipelines.errors import InputError, TrainingError
from pipelines.manifest import Manifest
from pipelines.series import read_series
from pipelines.training.case import Case
from pipelines.training.data.reference import CaseRef
from pipelines.training.data.segmentation import match_segments, read_labels

#: All that finding out needs of a header.
_TAGS = (
    "SOPClassUID",
    "Modality",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "PatientSex",
    "ReferencedSeriesSequence",
    "SegmentSequence",
)
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
#: PS3.4 Table B.5-1; pydicom 3.0 does not name it.
_LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
_SEXES = {"F": "female", "M": "male", "O": "other"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """Files of one series, and the header of the first."""

    header: Dataset
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Sources:
    """What a labelled series is read with."""

    numbers: Mapping[Path, Mapping[int, int]]  #: SEG -> its segment numbers -> the pipeline's
    partners: Mapping[str, tuple[Path, ...]]  #: role -> files of another series
    folder: Path


def find_dicom_cases(
    folder: Path, manifest: Manifest, *, skip_unknown: bool = False
) -> tuple[tuple[CaseRef, ...], str]:
    """Return the labelled series of a folder, and in words what else lies there.

    A SEG belongs to the series that it names (Referenced Series Sequence), or else to the only one of its study and
    Frame of Reference; a series may have several. Where the pipeline takes several inputs, a labelled series brings its
    partners: of each other role the series with most files in its study and Frame of Reference.

    Raises
    ------
    TrainingError
        `training-no-image`, `training-label-unknown`, `training-label-twice` or `training-data-invalid`, naming the
        file.
    """
    series, segmentations, foreign = _scan(folder)
    labelled: dict[str, list[Path]] = defaultdict(list)
    for path, ds in segmentations:
        labelled[_series_of(ds, path.relative_to(folder), series)].append(path)
    headers = dict(segmentations)
    cases = []
    for uid, paths in labelled.items():
        _demand_modality(series[uid], manifest, paths[0].relative_to(folder))
        numbers = {
            path: match_segments(
                headers[path], manifest, str(path.relative_to(folder)), skip_unknown=skip_unknown
            )
            for path in paths
        }
        _demand_once(numbers, folder)
        partners = _partners_of(uid, series, manifest)
        cases.append(_case_ref(uid, series[uid], _Sources(numbers, partners, folder)))
    left_out = _left_out(len(series) - len(labelled), foreign)
    return tuple(sorted(cases, key=lambda ref: ref.name)), left_out


def _scan(folder: Path) -> tuple[dict[str, _Series], list[tuple[Path, Dataset]], int]:
    """Series by UID, SEGs, and how many files are no DICOM.

    Raises
    ------
    TrainingError
        `training-data-invalid`, for a DICOM file whose header is cut off: without it a slice or a SEG would be missing.
    """
    files: dict[str, list[Path]] = defaultdict(list)
    headers: dict[str, Dataset] = {}
    segmentations: list[tuple[Path, Dataset]] = []
    foreign = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            ds = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
            kind, uid = ds.SOPClassUID, str(ds.SeriesInstanceUID)
        except _READ_ERRORS as error:
            if _should_be_readable(path):
                raise TrainingError(
                    f"{path.relative_to(folder)}: is cut off or broken; export it again, or move it away.",
                    code="training-data-invalid",
                ) from error
            foreign += 1
            continue
        if kind in (SegmentationStorage, _LABEL_MAP_STORAGE):
            segmentations.append((path, ds))
        else:
            files[uid].append(path)
            headers.setdefault(uid, ds)
    series = {uid: _Series(header=headers[uid], files=tuple(paths)) for uid, paths in files.items()}
    return series, segmentations, foreign


def _should_be_readable(path: Path) -> bool:
    """Whether a file that could not be read is an instance of a series."""
    try:
        with path.open("rb") as file:
            is_dicom = file.read(132)[128:] == b"DICM"
        meta = read_file_meta_info(path) if is_dicom else Dataset()
    except _READ_ERRORS:
        return True
    return is_dicom and meta.get("MediaStorageSOPClassUID") != MediaStorageDirectoryStorage


def _series_of(ds: Dataset, name: Path, series: Mapping[str, _Series]) -> str:
    """Series Instance UID of the images that a SEG labels."""
    referenced = [
        str(item.get("SeriesInstanceUID")) for item in ds.get("ReferencedSeriesSequence", ())
    ]
    found = [uid for uid in referenced if uid in series]
    if not found and not referenced:
        found = [
            uid
            for uid, one in series.items()
            if one.header.get("StudyInstanceUID") == ds.get("StudyInstanceUID")
            and one.header.get("FrameOfReferenceUID") == ds.get("FrameOfReferenceUID")
        ]
    if len(found) != 1:
        reason = (
            f"refers to the series {', '.join(referenced)}, which is not in the folder; add its images"
            if referenced and not found
            else f"may belong to any of {len(found)} series; keep in the folder only the one that was labelled"
        )
        raise TrainingError(f"{name}: {reason}, or move the SEG away.", code="training-no-image")
    return found[0]


def _demand_modality(series: _Series, manifest: Manifest, name: Path) -> None:
    taken = {modality for spec in manifest.inputs.values() for modality in spec.modality}
    modality = str(series.header.get("Modality", ""))
    if modality not in taken:
        raise TrainingError(
            f"{name}: labels a series of modality {modality or 'unknown'}; pipeline {manifest.name} takes "
            f"{', '.join(sorted(taken))}. Move it away.",
            code="training-no-image",
        )


def _demand_once(numbers: Mapping[Path, Mapping[int, int]], folder: Path) -> None:
    """Two SEGs of one structure are two opinions, not one truth."""
    first: dict[int, Path] = {}
    for path, found in numbers.items():
        for number in set(found.values()):
            other = first.setdefault(number, path)
            if other != path:
                raise TrainingError(
                    f"{path.relative_to(folder)} and {other.relative_to(folder)} label the same structure (segment "
                    f"{number} of the pipeline) of one series; keep the one that is right.",
                    code="training-label-twice",
                )


def _partners_of(
    uid: str, series: Mapping[str, _Series], manifest: Manifest
) -> dict[str, tuple[Path, ...]]:
    """Role -> files of the series that is looked at beside a labelled one; roles without one are left out."""
    labelled = series[uid].header
    places = ("StudyInstanceUID", "FrameOfReferenceUID")
    if not labelled.get("FrameOfReferenceUID"):
        return {}
    found = {}
    for role, spec in manifest.inputs.items():
        if labelled.get("Modality") in spec.modality:
            continue
        beside = [
            one
            for one in series.values()
            if one.header.get("Modality") in spec.modality
            and all(one.header.get(key) == labelled.get(key) for key in places)
        ]
        if beside:
            found[role] = max(beside, key=lambda one: len(one.files)).files
    return found


def _case_ref(uid: str, series: _Series, sources: _Sources) -> CaseRef:
    header = series.header
    # Whoever issued the ID: two patients taken for one cost little, one taken for two would be learned and tested.
    patient = str(header.get("PatientID") or header.get("StudyInstanceUID"))
    name = f"series-{_hash(uid)}"
    group = _SEXES.get(str(header.get("PatientSex") or ""), "")
    return CaseRef(
        name=name,
        group=group,
        subject=_hash(patient),
        load=partial(_load, name, group, series.files, sources),
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _left_out(unlabelled: int, foreign: int) -> str:
    counts = Counter({"series without SEG": unlabelled, "files that are no DICOM": foreign})
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _load(name: str, group: str, files: Sequence[Path], sources: _Sources) -> Case:
    image = _read_image(files, sources.folder)
    labels = None
    for path, found in sources.numbers.items():
        placed = read_labels(path, found, image, str(path.relative_to(sources.folder)))
        if labels is None:
            labels = placed
            continue
        # Structures of different SEGs were drawn apart and may touch: the first keeps its voxels.
        labels = labels.with_array(labels.array + placed.array * (labels.array == 0))
    if labels is None:
        raise TrainingError(f"{name} has no labels.", code="training-no-image")
    partners = {
        role: _read_image(beside, sources.folder) for role, beside in sources.partners.items()
    }
    return Case(name=name, image=image, labels=labels, group=group, partners=partners)


def _read_image(files: Sequence[Path], folder: Path) -> Volume:
    try:
        return read_series(files).volume
    except InputError as error:
        place = files[0].parent.relative_to(folder)
        raise TrainingError(f"Series in {folder.name}/{place}: {error}", code=error.code) from error
