"""TID 1600 Image Library: the source images, what they share said once.

highdicom repeats all sixteen descriptors under every image (2.5 MB for 300 slices); TID 1600 lets a group say what
its images have in common, so each image says its position only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    UIDRefContentItem,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from pipelines.evidence.codes import COSINE, PIXELS, SOURCE

#: PS3.16 CID 29, by Modality (0008,0060); others are left out of the description.
_MODALITIES = {
    "CT": codes.cid29.ComputedTomography,
    "MR": codes.cid29.MagneticResonance,
    "PT": codes.cid29.PositronEmissionTomography,
    "NM": codes.cid29.NuclearMedicine,
}


def image_library(
    images: Sequence[Dataset], frame_numbers: Sequence[int] = ()
) -> ContainerContentItem:
    """The library of one series on a regular grid, in one group; of a multi-frame image, an entry for each frame."""
    group = ContainerContentItem(
        name=codes.DCM.ImageLibraryGroup, relationship_type=RelationshipTypeValues.CONTAINS
    )
    group.ContentSequence = ContentSequence(
        [
            *_shared(images[0]),
            *(_entry(image, frame) for image, frame in zip_longest(images, frame_numbers)),
        ]
    )
    library = ContainerContentItem(
        name=codes.DCM.ImageLibrary, relationship_type=RelationshipTypeValues.CONTAINS
    )
    library.ContentSequence = ContentSequence([group])
    return library


def _shared(image: Dataset) -> list[ContentItem]:
    """TID 1602 and 1604, but for the position."""
    row_spacing, column_spacing = image.PixelSpacing
    items: list[ContentItem] = []
    if image.Modality in _MODALITIES:
        items.append(
            CodeContentItem(
                name=codes.DCM.Modality,
                value=_MODALITIES[image.Modality],
                relationship_type=RelationshipTypeValues.HAS_ACQ_CONTEXT,
            )
        )
    items.append(
        UIDRefContentItem(
            name=codes.DCM.FrameOfReferenceUID,
            value=image.FrameOfReferenceUID,
            relationship_type=RelationshipTypeValues.HAS_ACQ_CONTEXT,
        )
    )
    millimeter = codes.UCUM.Millimeter
    items += [
        _number(name, value, unit)
        for name, value, unit in (
            (codes.DCM.PixelDataRows, image.Rows, PIXELS),
            (codes.DCM.PixelDataColumns, image.Columns, PIXELS),
            # PS3.3 10.7.1.3: the spacing between rows is the vertical one.
            (codes.DCM.HorizontalPixelSpacing, column_spacing, millimeter),
            (codes.DCM.VerticalPixelSpacing, row_spacing, millimeter),
            (codes.DCM.SpacingBetweenSlices, image.SpacingBetweenSlices, millimeter),
            (codes.DCM.SliceThickness, image.SliceThickness, millimeter),
        )
    ]
    names = (
        codes.DCM.ImageOrientationPatientRowX,
        codes.DCM.ImageOrientationPatientRowY,
        codes.DCM.ImageOrientationPatientRowZ,
        codes.DCM.ImageOrientationPatientColumnX,
        codes.DCM.ImageOrientationPatientColumnY,
        codes.DCM.ImageOrientationPatientColumnZ,
    )
    items += [
        _number(name, value, COSINE)
        for name, value in zip(names, image.ImageOrientationPatient, strict=True)
    ]
    return items


def _entry(image: Dataset, frame: int | None) -> ImageContentItem:
    """TID 1601 with the position of TID 1604."""
    entry = ImageContentItem(
        name=CodedConcept.from_code(SOURCE),
        referenced_sop_class_uid=image.SOPClassUID,
        referenced_sop_instance_uid=image.SOPInstanceUID,
        referenced_frame_numbers=frame,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
    names = (
        codes.DCM.ImagePositionPatientX,
        codes.DCM.ImagePositionPatientY,
        codes.DCM.ImagePositionPatientZ,
    )
    entry.ContentSequence = ContentSequence(
        [
            _number(name, value, codes.UCUM.Millimeter)
            for name, value in zip(names, image.ImagePositionPatient, strict=True)
        ]
    )
    return entry


def _number(name: Code, value: float, unit: Code) -> NumContentItem:
    return NumContentItem(
        name=name,
        value=float(value),
        unit=unit,
        relationship_type=RelationshipTypeValues.HAS_ACQ_CONTEXT,
    )
