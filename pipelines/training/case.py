"""What a network is trained on and judged by: an image and the truth about it."""

from dataclasses import dataclass

import highdicom as hd


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
        uint8 segment numbers of the pipeline's manifest, 0 background, on the same grid.
    group
        Figures are also given by group where there are groups, e.g. `female`, `male`.
    """

    name: str
    image: hd.Volume
    labels: hd.Volume
    group: str = ""
