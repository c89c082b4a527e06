"""What a destination can store and its viewers can show: which objects of a result it gets, in which form.

A profile is data: a hospital writes its own in the configuration, in a few lines and without code.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator


class SegmentationType(StrEnum):
    """How a SEG holds its segments, Segmentation Type (0062,0001)."""

    BINARY = "binary"  #: a plane per segment and slice, one bit a pixel; every reader knows it
    LABELMAP = (
        "labelmap"  #: one plane per slice (Supplement 243), small; for readers of 2024 and later
    )
    NONE = "none"  #: no SEG


class Compression(StrEnum):
    """How pixels are encoded."""

    NATIVE = "native"
    RLE = "rle"
    JPEG_LS = "jpeg-ls"

    @property
    def transfer_syntax_uid(self) -> str:
        """Transfer Syntax UID of a SEG so encoded (PS3.6 Table A-1)."""
        return _TRANSFER_SYNTAXES[self]


#: As text: whoever reads a configuration shall not wait for pydicom.
_TRANSFER_SYNTAXES = {
    Compression.NATIVE: "1.2.840.10008.1.2.1",
    Compression.RLE: "1.2.840.10008.1.2.5",
    Compression.JPEG_LS: "1.2.840.10008.1.2.4.80",
}


class Profile(BaseModel):
    """Which objects of a result a destination gets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    segmentation: SegmentationType = Field(
        SegmentationType.BINARY, description="Form of the SEG: binary, labelmap, or none."
    )
    compression: Compression = Field(
        Compression.NATIVE,
        description="Encoding of the SEG's pixels: native, rle (both forms) or jpeg-ls (labelmap).",
    )
    report: bool = Field(True, description="Comprehensive 3D SR, TID 1500, with all measurements.")
    contours: bool = Field(
        False,
        description="Also draw each segment's contour on its key slice in the SR (TID 1410): viewers that take no "
        "contour from a SEG show it, with the measurements.",
    )
    secondary_capture: bool = Field(
        False, description="RGB images with the contours burnt in, and a page of measurements."
    )
    pdf: bool = Field(
        False, description="Encapsulated PDF: picture, table, model, version, warnings."
    )
    rtstruct: bool = Field(False, description="RT Structure Set with the contours of each segment.")
    key_objects: bool = Field(
        False, description="Key Object Selection of the slices worth looking at."
    )

    retract: bool = Field(
        False,
        description="Retract what a newer result replaces by a rejection note (IHE IOCM): for a PACS that hides what "
        "such a Key Object Selection names; another shows the note as one more series.",
    )

    @model_validator(mode="after")
    def _can_be_encoded(self) -> Profile:
        # PS3.5 8.2.3: JPEG-LS is for samples of 2 to 16 bits; a BINARY SEG has one.
        if self.segmentation is SegmentationType.BINARY and self.compression is Compression.JPEG_LS:
            raise ValueError(
                "compression: jpeg-ls takes no single bits; use rle, or segmentation = labelmap"
            )
        return self


#: A name in the configuration, on command lines and in the index.
ProfileName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]

#: What every destination gets that names none.
DEFAULT_PROFILE = "generic"
#: Those that ship; a configuration may replace each, and add others.
PROFILES: dict[str, Profile] = {
    DEFAULT_PROFILE: Profile(),
    "ohif": Profile(contours=True),
    "slicer": Profile(),
    "legacy": Profile(
        segmentation=SegmentationType.NONE, report=False, secondary_capture=True, pdf=True
    ),
    "radiotherapy": Profile(rtstruct=True),
}
#: What is made where nobody names a profile.
GENERIC = {DEFAULT_PROFILE: PROFILES[DEFAULT_PROFILE]}
