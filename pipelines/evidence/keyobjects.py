"""The slices worth looking at: a Key Object Selection (PS3.3 A.35.4, PS3.16 TID 2010).

Of each segment the slice on which it is largest; where several share one, it is listed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from pipelines.evidence.equipment import observer_context
from pipelines.evidence.header import finish, series_attributes, source_images
from pipelines.evidence.keyslices import key_slices
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.views import CAUTION, slice_name

KIND = "KO"


def create_key_objects(
    request: EvidenceRequest, evidence: Sequence[Dataset] = ()
) -> Dataset | None:
    """Make the selection; None when no segment has a voxel.

    Parameters
    ----------
    request
        The result, and the images it lies on.
    evidence
        Instances made of the same result (SEG, SR ...) that the receiver gets too: they are selected after the
        slices, so that who opens the selection finds them.

    Returns
    -------
    Dataset
        With file meta information, Explicit VR Little Endian; None when there is nothing to look at.
    """
    keys = key_slices(request.result)
    if not keys:
        return None
    images, frames = source_images(request), request.source.frame_numbers
    chosen = sorted(set(keys.values()))
    slices = images[:1] if frames else [images[index] for index in chosen]
    # highdicom takes patient and study from the first: that they all share stands in the first slice of the series.
    slices[0] = _with_header(slices[0], images[0])
    content = KeyObjectSelection(
        # PS3.16 CID 7010.
        document_title=codes.DCM.OfInterest,
        referenced_objects=[*slices, *evidence],
        observer_device_context=observer_context(request),
        description=_description(request, keys),
    )
    if frames:
        _refer_to_frames(content, sorted(frames[index] for index in chosen))
    ds = KeyObjectSelectionDocument(
        evidence=[*slices, *evidence],
        content=content,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **series_attributes(request, KIND),
    )
    ds.copy_patient_and_study_information(images[0])
    finish(ds, request)
    return ds


def _with_header(one: Dataset, first: Dataset) -> Dataset:
    whole = Dataset()
    whole.update(first)
    whole.update(one)
    return whole


def _refer_to_frames(content: KeyObjectSelection, frame_numbers: Sequence[int]) -> None:
    """PS3.3 C.18.4: frames of the one image that is selected; highdicom selects images only as wholes."""
    image = next(item for item in content[0].ContentSequence if item.ValueType == "IMAGE")
    image.ReferencedSOPSequence[0].ReferencedFrameNumber = list(frame_numbers)


def _description(request: EvidenceRequest, keys: Mapping[int, int]) -> str:
    """TID 2010 Row 7: what is worth looking at, slice by slice."""
    labels = {segment.number: segment.label for segment in request.result.segments}
    said = []
    for index in sorted(set(keys.values())):
        names = ", ".join(labels[number] for number, key in keys.items() if key == index)
        said.append(f"{slice_name(request.source, index)}: {names}")
    return f"Where each segment is largest. {'; '.join(said)}. {CAUTION}."
