"""A DICOM SEG as labels of a pipeline: segments by their codes, voxels by their place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code

from pipelines.errors import TrainingError
from pipelines.manifest import Manifest, SegmentSpec
from pipelines.training.data.placing import place_labels


def match_segments(
    ds: Dataset, manifest: Manifest, name: str, *, skip_unknown: bool = False
) -> dict[int, int]:
    """Return Segment Number (0062,0004) in the SEG -> segment number of the manifest.

    A segment is matched by Segmented Property Type Code (0062,000F) and laterality, and by Anatomic Region where the
    manifest has one; if that tells no one apart, by Segment Label (0062,0005). Several may be of one structure, as
    lesions are.

    Raises
    ------
    TrainingError
        `training-label-unknown`, naming the file and the segment.
    """
    numbers = {}
    for item in ds.get("SegmentSequence") or ():
        spec = _match(item, manifest)
        if spec is not None:
            numbers[int(item.SegmentNumber)] = spec.number
        elif not skip_unknown:
            raise TrainingError(
                f"{name}: segment {item.SegmentNumber}, {item.get('SegmentLabel', '')!r} ({_said(item)}) is none of "
                f"the pipeline's: {'; '.join(map(_known, manifest.segments))}. Code it as one of them, or give "
                "--skip-unknown.",
                code="training-label-unknown",
            )
    if not numbers:
        raise TrainingError(
            f"{name}: has no segment of the pipeline; move it away.", code="training-label-unknown"
        )
    return numbers


def _match(item: Dataset, manifest: Manifest) -> SegmentSpec | None:
    kind, side, site = _type(item), _laterality(item), _code(item, "AnatomicRegionSequence")
    found = [
        spec
        for spec in manifest.segments
        if spec.type.to_code() == kind
        and (side is None or spec.laterality is None or spec.laterality.to_code() == side)
        and (site is None or spec.site is None or spec.site.to_code() == site)
    ]
    if len(found) == 1 and (found[0].laterality is None or side is not None):
        return found[0]
    label = str(item.get("SegmentLabel", "")).strip().casefold()
    by_label = [spec for spec in found or manifest.segments if spec.label.casefold() == label]
    return by_label[0] if by_label else None


def _type(item: Dataset) -> Code | None:
    return _code(item, "SegmentedPropertyTypeCodeSequence")


def _laterality(item: Dataset) -> Code | None:
    """Modifier of the type, or of the anatomic region."""
    for keyword, modifier in (
        ("SegmentedPropertyTypeCodeSequence", "SegmentedPropertyTypeModifierCodeSequence"),
        ("AnatomicRegionSequence", "AnatomicRegionModifierSequence"),
    ):
        for outer in item.get(keyword) or ():
            code = _code(outer, modifier)
            if code is not None:
                return code
    return None


def _code(item: Dataset, keyword: str) -> Code | None:
    for coded in item.get(keyword) or ():
        # PS3.3 8.1: exactly one of the three forms of Code Value.
        value = coded.get("CodeValue") or coded.get("LongCodeValue") or coded.get("URNCodeValue")
        # Equality of pydicom's codes knows SNOMED's older identifiers (SRT).
        return Code(
            str(value),
            str(coded.get("CodingSchemeDesignator", "")),
            str(coded.get("CodeMeaning", "")),
        )
    return None


def _said(item: Dataset) -> str:
    parts = (_type(item), _laterality(item))
    return (
        ", ".join(
            f"{code.meaning}, {code.value} {code.scheme_designator}" for code in parts if code
        )
        or "no code"
    )


def _known(spec: SegmentSpec) -> str:
    side = f", {spec.laterality.meaning}" if spec.laterality else ""
    return f"{spec.label} ({spec.type.meaning}, {spec.type.value} {spec.type.scheme}{side})"


def read_labels(path: Path, numbers: Mapping[int, int], image: hd.Volume, name: str) -> hd.Volume:
    """Read the voxels of a SEG onto the grid of its images.

    Parameters
    ----------
    path
        DICOM SEG, BINARY or LABELMAP.
    numbers
        From `match_segments`.
    image
        Of the series that the SEG labels.
    name
        Of the file, for errors.

    Returns
    -------
    highdicom.Volume
        uint8 segment numbers of the manifest, on the grid of `image`.

    Raises
    ------
    TrainingError
        `training-label-misplaced`, or `training-data-invalid` when it cannot be read.
    """
    try:
        seg = hd.seg.segread(path)
        labels = seg.get_volume(
            segment_numbers=sorted(numbers), combine_segments=True, relabel=False
        )
    except (
        RuntimeError,
        ValueError,
        OSError,
        AttributeError,
        KeyError,
        TypeError,
        NotImplementedError,
    ) as error:
        raise TrainingError(
            f"{name}: cannot be read as labels on a regular grid ({error}). Export it as BINARY, without overlaps.",
            code="training-data-invalid",
        ) from error
    frames = (labels.frame_of_reference_uid, image.frame_of_reference_uid)
    if all(frames) and frames[0] != frames[1]:
        raise TrainingError(
            f"{name}: lies in another Frame of Reference than its images; draw the labels on the images themselves.",
            code="training-label-misplaced",
        )
    table = np.zeros(max(numbers) + 1, np.uint8)
    for theirs, ours in numbers.items():
        table[theirs] = ours
    return place_labels(labels.with_array(table[labels.array.astype(np.intp)]), image, name)
