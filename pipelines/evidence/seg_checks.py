"""What a Segmentation must be to be valid and to be shown (PS3.3 A.51, C.8.20; displays)."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from pydicom import Dataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    SegmentationStorage,
)

from pipelines.evidence.checks import Check, Faults, missing, uncoded, unlike
from pipelines.evidence.readback import Groups

#: Supplement 243; pydicom 3.0 does not know it yet.
LABEL_MAP_SEGMENTATION_STORAGE: Final = UID("1.2.840.10008.5.1.4.1.1.66.7")
#: Segmentation Type -> its SOP Class, and the transfer syntaxes its pixels can have (PS3.5 8.2).
_FORMS: Final[dict[str, tuple[UID, tuple[UID, ...]]]] = {
    "BINARY": (SegmentationStorage, (ExplicitVRLittleEndian, RLELossless)),
    "LABELMAP": (
        LABEL_MAP_SEGMENTATION_STORAGE,
        (ExplicitVRLittleEndian, RLELossless, JPEGLSLossless),
    ),
}


def _form(ds: Dataset) -> Faults:
    if ds.get("SegmentationType") not in _FORMS:
        yield f"SegmentationType is {ds.get('SegmentationType')!r}"
        return
    sop_class, syntaxes = _FORMS[ds.SegmentationType]
    yield from unlike(ds, SOPClassUID=sop_class, Modality="SEG", SegmentsOverlap="NO")
    yield from unlike(ds, ImageType=["DERIVED", "PRIMARY"])
    if ds.file_meta.TransferSyntaxUID not in syntaxes:
        yield f"TransferSyntaxUID is {ds.file_meta.TransferSyntaxUID.name} for {ds.SegmentationType}"


def _pixels(ds: Dataset) -> Faults:
    yield from missing(ds, "Rows", "Columns")
    yield from unlike(
        ds, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", PixelRepresentation=0
    )
    allowed = (1,) if ds.get("SegmentationType") == "BINARY" else (8, 16)
    bits = ds.get("BitsAllocated")
    if bits not in allowed:
        yield f"BitsAllocated is {bits}"
    else:
        yield from unlike(ds, BitsStored=bits, HighBit=bits - 1)
    if ds.get("LossyImageCompression") not in ("00", "01"):
        yield "LossyImageCompression is missing"
    if ds.get("SegmentationType") == "LABELMAP":
        yield from unlike(ds, PixelPaddingValue=0)


def _content(ds: Dataset) -> Faults:
    # PS3.5 6.2: a Code String.
    if not re.fullmatch(r"[A-Z0-9 _]{1,16}", str(ds.get("ContentLabel", ""))):
        yield f"ContentLabel is {ds.get('ContentLabel')!r}"
    for keyword in ("ContentDescription", "ContentCreatorName"):
        if keyword not in ds:
            yield f"{keyword} is missing"


def _segment_numbers(ds: Dataset) -> Faults:
    numbers = [item.get("SegmentNumber") for item in ds.get("SegmentSequence") or ()]
    first = 0 if ds.get("SegmentationType") == "LABELMAP" else 1
    if len(numbers) < 2 - first or numbers != list(range(first, first + len(numbers))):
        yield f"SegmentSequence.SegmentNumber runs {numbers}, not from {first} by 1"


def _segments(ds: Dataset) -> Faults:
    for item in ds.get("SegmentSequence") or ():
        within = f"SegmentSequence[{item.get('SegmentNumber')}]."
        yield from missing(item, "SegmentLabel", "SegmentAlgorithmName", within=within)
        yield from unlike(item, within, SegmentAlgorithmType="AUTOMATIC")
        for keyword in (
            "SegmentedPropertyCategoryCodeSequence",
            "SegmentedPropertyTypeCodeSequence",
        ):
            yield from uncoded(item, keyword, within)
        if item.get("SegmentNumber") == 0:
            continue
        yield from missing(item, "RecommendedDisplayCIELabValue", within=within)
        for algorithm in item.get("SegmentationAlgorithmIdentificationSequence") or ():
            place = f"{within}SegmentationAlgorithmIdentificationSequence."
            yield from missing(algorithm, "AlgorithmName", "AlgorithmVersion", within=place)
            yield from uncoded(algorithm, "AlgorithmFamilyCodeSequence", place)


def _tracking(ds: Dataset) -> Faults:
    segments = [item for item in ds.get("SegmentSequence") or () if item.get("SegmentNumber") != 0]
    for keyword in ("TrackingID", "TrackingUID"):
        for item in segments:
            yield from missing(item, keyword, within=f"SegmentSequence[{item.SegmentNumber}].")
        twice = [
            value
            for value, count in Counter(item.get(keyword) for item in segments).items()
            if value and count > 1
        ]
        if twice:
            yield f"SegmentSequence.{keyword} is not of one segment alone: {twice[0]}"


def _shared_groups(ds: Dataset) -> Faults:
    yield from missing(ds, "FrameOfReferenceUID")
    shared = (ds.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    measures = (shared.get("PixelMeasuresSequence") or [Dataset()])[0]
    orientation = (shared.get("PlaneOrientationSequence") or [Dataset()])[0]
    yield from missing(measures, "PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
    yield from missing(orientation, "ImageOrientationPatient")


def _frames(ds: Dataset) -> Faults:
    """Each frame has its place, its index and its source; each segment has a frame."""
    groups, known = list(ds.get("PerFrameFunctionalGroupsSequence") or ()), Groups()
    if not groups or len(groups) != ds.get("NumberOfFrames"):
        yield f"PerFrameFunctionalGroupsSequence has {len(groups)} items for {ds.get('NumberOfFrames')} frames"
        return
    shared = ds.SharedFunctionalGroupsSequence[0]
    dimensions = len(ds.get("DimensionIndexSequence") or ())
    segments: set[int | None] = set()
    indices: set[bytes] = set()
    for number, item in enumerate(groups, start=1):
        within = f"PerFrameFunctionalGroupsSequence[{number}]."
        place = known.first(item, "PlanePositionSequence") or Dataset()
        yield from missing(place, "ImagePositionPatient", within=f"{within}PlanePositionSequence.")
        indices.add(known.encoding(item, "FrameContentSequence"))
        of_segment = known.first(item, "SegmentIdentificationSequence") or known.first(
            shared, "SegmentIdentificationSequence"
        )
        segments.add(of_segment.get("ReferencedSegmentNumber") if of_segment else None)
    content = known.first(groups[0], "FrameContentSequence") or Dataset()
    said = content["DimensionIndexValues"].VM if "DimensionIndexValues" in content else 0
    if said != dimensions or len({len(index) for index in indices}) != 1:
        yield f"DimensionIndexValues are not {dimensions} in each frame"
    if len(indices) != len(groups):
        yield "DimensionIndexValues are not of one frame alone"
    if ds.get("SegmentationType") == "BINARY":
        described = {item.get("SegmentNumber") for item in ds.get("SegmentSequence") or ()}
        if segments != described:
            odd = sorted(described ^ segments, key=str)
            yield f"ReferencedSegmentNumber: segments {odd} have no frame or no description"


def _sources(ds: Dataset) -> Faults:
    """One referenced series; each frame points at an instance of it."""
    series = list(ds.get("ReferencedSeriesSequence") or ())
    if len(series) != 1:
        yield f"ReferencedSeriesSequence has {len(series)} items, not 1"
        return
    yield from missing(series[0], "SeriesInstanceUID", within="ReferencedSeriesSequence.")
    instances = {
        item.get("ReferencedSOPInstanceUID")
        for item in series[0].get("ReferencedInstanceSequence") or ()
    }
    if not instances:
        yield "ReferencedSeriesSequence.ReferencedInstanceSequence is missing"
    known = Groups()
    for number, item in enumerate(ds.get("PerFrameFunctionalGroupsSequence") or (), start=1):
        derivation = known.first(item, "DerivationImageSequence") or Dataset()
        images = derivation.get("SourceImageSequence") or ()
        within = f"PerFrameFunctionalGroupsSequence[{number}].DerivationImageSequence"
        if not images:
            yield f"{within}.SourceImageSequence is missing"
        for image in images:
            if image.get("ReferencedSOPInstanceUID") not in instances:
                yield f"{within} names an instance that is not of the referenced series"


#: Of a Segmentation, besides what every object must be.
SEGMENTATION: Final = (
    Check(name="form", clause="PS3.3 A.51, A.90; C.8.20.2", faults=_form),
    Check(name="pixels", clause="PS3.3 C.8.20.2, C.7.6.1.1.5", faults=_pixels),
    Check(name="content", clause="PS3.3 10.9, PS3.5 6.2", faults=_content),
    Check(name="segment numbers", clause="PS3.3 C.8.20.2, C.8.20.2.3", faults=_segment_numbers),
    Check(name="segments", clause="PS3.3 C.8.20.4, 10.16", faults=_segments),
    Check(name="tracking", clause="PS3.3 C.8.20.4, IHE AIR 6.5.3", faults=_tracking),
    Check(name="shared groups", clause="PS3.3 A.51.5, C.7.6.16.2", faults=_shared_groups),
    Check(name="frames", clause="PS3.3 C.7.6.16.2, C.7.6.17; displays", faults=_frames),
    Check(name="sources", clause="PS3.3 C.12.2, C.7.6.16.2.6; displays", faults=_sources),
)
