"""What a phantom is made of."""

from dataclasses import dataclass
from enum import IntEnum

import highdicom as hd
import numpy as np


class Tissue(IntEnum):
    """Code of a voxel in a phantom's label map."""

    AIR = 0
    LUNG = 1
    FAT = 2
    SKIN = 3
    MUSCLE = 4
    SOFT = 5  #: parenchyma without a code of its own
    LIVER = 6
    SPLEEN = 7
    KIDNEY = 8
    VESSEL = 9
    HEART = 10
    BOWEL = 11
    URINE = 12  #: bladder, ureter, renal pelvis: bright in the excretory phase
    BRAIN = 13
    CANAL = 14  #: spinal cord and cerebrospinal fluid
    DISC = 15
    CARTILAGE = 16
    GAS = 17  #: airways
    SPINE = 32  #: from here on: bone
    RIB = 33
    FLAT_BONE = 34  #: pelvis, sacrum, scapula, sternum
    LONG_BONE = 35
    SKULL = 36


FIRST_BONE = Tissue.SPINE


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """Which tissue lies where.

    Both volumes have the same geometry, axes (slice, row, column), affine LPS in mm.
    """

    tissues: hd.Volume  #: uint8, `Tissue` codes
    depth: hd.Volume  #: float32, mm below the nearest bone surface; negative outside of bone


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """An image and the truth about it, on the same grid."""

    image: hd.Volume  #: int16, Hounsfield units, axes (slice, row, column)
    tissues: hd.Volume  #: uint8, `Tissue` codes


def skeleton_of(tissues: hd.Volume) -> hd.Volume:
    """Return where there is bone, with its marrow.

    Parameters
    ----------
    tissues
        uint8 `Tissue` codes, axes (slice, row, column).

    Returns
    -------
    highdicom.Volume
        uint8, 1 in bone, on the same grid.
    """
    return tissues.with_array((tissues.array >= FIRST_BONE).astype(np.uint8))
