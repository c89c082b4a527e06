"""What an evaluation says: figures of one structure, and what they come to over all studies."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One study's figures. F1 of voxels is the Dice coefficient and so not repeated."""

    dice: float
    iou: float
    sensitivity: float
    specificity: float
    precision: float
    accuracy: float
    surface_mm: float  #: average symmetric surface distance
    hausdorff95_mm: float  #: 95th percentile of the symmetric surface distances
    volume_ml: float
    true_volume_ml: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One structure of one study, found in one way."""

    case: str
    group: str
    variant: str
    structure: str
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One figure over all studies in which it is defined."""

    mean: float
    sd: float
    worst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One structure over all studies.

    Attributes
    ----------
    present
        Studies whose truth has the structure: figures and agreement are over these.
    missed
        Those of them in which nothing was found.
    absent
        Studies without it, in which nothing was found.
    invented
        Studies without it, in which something was found.
    figures
        Name -> spread.
    agreement
        `r2`, `bias_ml`, `lower_ml`, `upper_ml` (limits of agreement).
    """

    present: int
    missed: int
    absent: int
    invented: int
    figures: Mapping[str, Spread]
    agreement: Mapping[str, float]
