"""The result as pictures that any PACS shows: Secondary Captures (PS3.3 A.8.1) with the outlines burnt in.

One RGB single-frame image each, of the class of 1993: the multi-frame true colour class came ten years later, and a
PACS that knows neither SEG nor SR may not know it either. First come pages with the measurements, then slices of the
source in their order. Outlines, no fills: what is under them is to be judged. The text names nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom.sc import SCImage
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DA, TM

from pipelines.evidence.header import content_time, finish, series_attributes, source_images
from pipelines.evidence.keyslices import key_slices
from pipelines.evidence.pages import (
    SCREEN,
    Writer,
    finish_pages,
    rgb_pixels,
    write_facts,
    write_head,
    write_table,
)
from pipelines.evidence.pictures import Views, draw_slice, prepare_views
from pipelines.evidence.references import (
    code_item,
    referenced_series,
    slice_reference,
    source_references,
)
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.summary import summarise
from pipelines.evidence.views import CAUTION, letters
from pipelines.result import AnalysisResult
from pipelines.uids import derive_sop_instance_uid

KIND = "SC"
#: Slices are thinned to about this many: 60 pictures of 512 x 512 are 75 MB.
MOST_SLICES = 60


def create_captures(request: EvidenceRequest) -> tuple[Dataset, ...]:
    """Make the pictures of a result, all of one series; the same request makes the same bytes.

    Returns
    -------
    tuple of Dataset
        Pages of measurements, then one picture for each of `captured_slices` (none when no segment has a voxel);
        with file meta information, Explicit VR Little Endian.
    """
    image = source_images(request)[0]
    made: list[Dataset] = []
    for page in _pages(request):
        ds = _capture(request, image, rgb_pixels(page), len(made) + 1)
        # PS3.3 C.7.6.1.1.1: Type 2C, empty where there is no patient in the picture.
        ds["PatientOrientation"].value = None
        _refer(ds, request, source_references(request))
        finish(ds, request)
        made.append(ds)
    views = prepare_views(request.source, request.result)
    for index in captured_slices(request.result):
        picture = draw_slice(views, request, index)
        ds = _capture(request, image, rgb_pixels(picture), len(made) + 1)
        _place(ds, request, views, index)
        finish(ds, request)
        made.append(ds)
    return tuple(made)


def captured_slices(result: AnalysisResult, most: int = MOST_SLICES) -> tuple[int, ...]:
    """Indices of the slices that get a picture, in order.

    All that show a segment; of more than `most`, one of each of `most` equal stretches: those on which a segment is
    largest (all of them), else the middle one.
    """
    showing = np.flatnonzero([plane.any() for plane in result.label_map.array])
    if showing.size <= most:
        return tuple(int(index) for index in showing)
    keys = set(key_slices(result).values())
    chosen: list[int] = []
    for stretch in np.array_split(showing, most):
        chosen += [int(index) for index in stretch if index in keys] or [
            int(stretch[stretch.size // 2])
        ]
    return tuple(chosen)


def _pages(request: EvidenceRequest) -> list[Figure]:
    summary = summarise(request)
    writer = Writer(style=SCREEN)
    write_head(writer, summary)
    write_table(writer, summary)
    write_facts(writer, summary.facts)
    return finish_pages(writer, summary)


def _capture(
    request: EvidenceRequest, image: Dataset, pixels: NDArray[np.uint8], number: int
) -> SCImage:
    """An instance of the series; its UID follows from its number."""
    attributes = series_attributes(request, KIND)
    attributes["instance_number"] = number
    attributes["sop_instance_uid"] = derive_sop_instance_uid(
        request.installation.uid_root,
        workitem_uid=request.workitem_uid,
        kind=f"{KIND} {number}",
    )
    ds = SCImage(
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        study_instance_uid=image.StudyInstanceUID,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **attributes,
    )
    ds.copy_patient_and_study_information(image)
    # PS3.3 C.8.6.1: made by a workstation.
    ds.ConversionType = "WSD"
    started = content_time(request)
    ds.DateOfSecondaryCapture = DA(started.date())
    ds.TimeOfSecondaryCapture = TM(started.time().replace(tzinfo=None))
    # PS3.3 C.7.6.1: nothing in the picture says who it is of.
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = image.LossyImageCompression
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in image:
            ds.add(image[keyword])
    ds.ImageComments = CAUTION
    _add_body_part(ds, request.source.datasets[0])
    return ds


def _add_body_part(ds: SCImage, source: Dataset) -> None:
    """PS3.3 C.7.3.1: Laterality is required of paired parts, empty where it is unknown which part is shown."""
    for keyword in ("BodyPartExamined", "Laterality"):
        if source.get(keyword):
            setattr(ds, keyword, source[keyword].value)
    if "BodyPartExamined" not in ds and "Laterality" not in ds:
        ds.add_new("Laterality", "CS", None)


def _place(ds: SCImage, request: EvidenceRequest, views: Views, index: int) -> None:
    """Which slice it shows, how it is turned, and how large a pixel is."""
    shown = views.image
    ds.PatientOrientation = [letters(shown.direction[:, axis]) for axis in (2, 1)]
    # PS3.3 10.7.1.3; the picture's pixels are square.
    ds.PixelSpacing = [f"{views.pixel_mm:.10g}"] * 2
    ds.DerivationDescription = "Outlines of segments found by software, burnt in."
    _refer(ds, request, [slice_reference(request, index)])


def _refer(ds: SCImage, request: EvidenceRequest, items: Sequence[Dataset]) -> None:
    """PS3.3 C.12.4 General Reference: the images it was made from; C.12.2 Common Instance Reference."""
    for item in items:
        item.PurposeOfReferenceCodeSequence = [
            code_item(codes.DCM.SourceImageForImageProcessingOperation)
        ]
    ds.SourceImageSequence = list(items)
    ds.ReferencedSeriesSequence = [referenced_series(request, items)]
