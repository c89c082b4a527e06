"""What a network is trained on and judged by: an image and the truth about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import highdicom as hd

#: A label that nobody gave: what is found there is neither right nor wrong.
UNKNOWN = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One study, or a part of one, with its truth.

    Attributes
    ----------
    name
        Never an identifying value, e.g. `phantom-1000003` or a hash.
    image
        Modality values (CT: HU), axes (slice, row, column), affine LPS in mm.
    labels
        uint8 segment numbers of the pipeline's manifest, 0 background, `UNKNOWN` where nobody knows, on the same grid.
    group
        Figures are also given by group where there are groups, e.g. `female`, `male`.
    partners
        Role -> further images of the same patient in the same frame of reference, each on its own grid.
    """

    name: str
    image: hd.Volume
    labels: hd.Volume
    group: str = ""
    partners: Mapping[str, hd.Volume] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a method found in a case.

    Attributes
    ----------
    labels
        uint8 segment numbers of the pipeline's manifest, on the grid of the case's image.
    score
        How likely each voxel is of the class that lesions are rated by, float32, 0 to 1, on the same grid; None where
        nothing is rated.
    """

    labels: hd.Volume
    score: hd.Volume | None = None
