"""What a phantom is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms.calibration import Calibration
from pipelines.training.phantoms.patient import Patient

Floats = NDArray[np.float32]


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
    METAL = 18  #: implants
    SPINE = 32  #: from here on: bone
    RIB = 33
    FLAT_BONE = 34  #: pelvis, sacrum, scapula, sternum
    LONG_BONE = 35
    SKULL = 36


FIRST_BONE = Tissue.SPINE


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One plane through a body. All arrays have the shape (rows, columns)."""

    tissues: NDArray[np.uint8]  #: `Tissue` codes
    structures: NDArray[np.uint8]  #: codes of `Body.names`, 0 none
    depth: Floats  #: mm below the nearest bone surface; negative outside of bone
    cortex: Floats  #: thickness of the cortex there, mm
    mineral: Floats  #: in marrow, mg hydroxyapatite per cm3; 0 outside of bone
    gap: Floats | None = None  #: share of bone that is gone, cortex too: fractures, lysis
    lipid: Floats | None = None  #: share of fat between the fibres of muscle, beyond the patient's


class Body(Protocol):
    """A posed body that can be cut anywhere. Knows nothing of how it is imaged."""

    @property
    def names(self) -> Mapping[int, str]:
        """Structure code -> name."""

    @property
    def patient(self) -> Patient:
        """Who it is."""

    @property
    def middle(self) -> tuple[float, float]:
        """Where the axis of the trunk is: x, y, mm."""

    def cut(self, geometry: hd.VolumeGeometry, index: float) -> Cut:
        """Return the plane at a (fractional) slice index of an axial grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """An image and the truth about it, on the same grid."""

    image: hd.Volume  #: int16, Hounsfield units, axes (slice, row, column)
    tissues: hd.Volume  #: uint8, `Tissue` codes
    structures: hd.Volume  #: uint8, codes of `names`, 0 none
    names: Mapping[int, str]  #: structure code -> name
    patient: Patient
    calibration: Calibration | None = None  #: rods of known density in the image, if any


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


def structure_of(phantom: Phantom, *names: str) -> hd.Volume:
    """Return where the named structures are: uint8, 1 inside, on the phantom's grid."""
    codes = [code for code, name in phantom.names.items() if name in names]
    inside = np.isin(phantom.structures.array, codes)
    return phantom.structures.with_array(inside.astype(np.uint8))
