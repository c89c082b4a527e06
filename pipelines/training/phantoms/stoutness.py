"""Bones stouter or slighter than an atlas's, here more and there less: one body has but one set of processes."""

from dataclasses import dataclass

import numpy as np

from pipelines.training.phantoms.fields import Floats, SmoothField, draw_field, evaluate

#: mm by which surfaces lie farther out: mean and spread of a body; of its places, at most (ours: an arch of one of two
#: atlases is half as large again as of the other).
_BODY_MM, _PLACES_MM, _ROUGH_MM = (0.0, 0.5), 0.9, 0.6
#: How far apart places differ, mm: from process to process, and along a surface.
_APART_MM, _RUGGED_MM = 30.0, 9.0
#: An atlas knows the code of a bone within two voxels of it; thin plates shall not vanish.
_LEAST_MM, _MOST_MM = -0.8, 2.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Stoutness:
    """By how much the surfaces of all bones lie farther out than the atlas's."""

    mm: float
    places: SmoothField
    places_mm: float
    rough: SmoothField
    rough_mm: float

    def at(self, points: Floats) -> Floats:
        """Return by how many mm, float32, shape (...); `points` of the atlas, shape (..., 3), mm."""
        made = self.mm + self.places_mm * evaluate(self.places, points)
        made += self.rough_mm * evaluate(self.rough, points)
        return np.asarray(np.clip(made, _LEAST_MM, _MOST_MM), np.float32)


def draw_stoutness(rng: np.random.Generator) -> Stoutness:
    """Draw a body's."""
    return Stoutness(
        mm=float(rng.normal(*_BODY_MM)),
        places=draw_field(rng, _APART_MM, size=16),
        places_mm=float(rng.uniform(0, _PLACES_MM)),
        rough=draw_field(rng, _RUGGED_MM),
        rough_mm=float(rng.uniform(0, _ROUGH_MM)),
    )
