"""What age, disease and disuse do to muscles, each on its own: atrophy and fat between the fibres (myosteatosis).

A body is wrapped, so every source of bodies can have both. All sizes are ours, wider than in most patients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms.boxes import bounding_box
from pipelines.training.phantoms.patient import Patient
from pipelines.training.phantoms.tissues import Body, Cut, Tissue

Floats = NDArray[np.float32]

#: Of the depth that a muscle loses on all sides, mm: none, and the most.
_LOSS_MM = (0.0, 4.0)
#: A muscle keeps at least this share of its area in a plane: thin sheets do not fall to scraps.
_KEPT = 0.45


@dataclass(frozen=True, slots=True, kw_only=True)
class MuscleState:
    """What became of one muscle."""

    muscle: str  #: with its side, e.g. `psoas_major_left`
    lipid: float = 0.0  #: share of fat between the fibres, 0 to 1, beyond the patient's
    loss_mm: float = 0.0  #: by which it is thinner on all sides; fat takes the place


def draw_states(
    rng: np.random.Generator, patient: Patient, muscles: Sequence[str]
) -> tuple[MuscleState, ...]:
    """Draw the state of each muscle: the patient's, by age, and of each muscle and side beyond it.

    Parameters
    ----------
    rng
        Source of chance.
    patient
        Old age wastes more.
    muscles
        Without their side.
    """
    frailty = float(np.clip(rng.normal(0.15 + 0.006 * max(0, patient.age - 40), 0.2), 0, 1))
    states = []
    for muscle in muscles:
        both = rng.exponential(0.12) * frailty, rng.exponential(0.35) * frailty
        for side in ("left", "right"):
            lipid, loss = (one * float(np.exp(rng.normal(0, 0.25))) for one in both)
            states.append(
                MuscleState(
                    muscle=f"{muscle}_{side}",
                    lipid=float(np.clip(lipid, 0, 0.6)),
                    loss_mm=float(np.clip(_LOSS_MM[1] * loss, *_LOSS_MM)),
                )
            )
    return tuple(states)


@dataclass(frozen=True, slots=True, kw_only=True)
class WastedBody:
    """A body whose muscles are wasted; a `Body`."""

    body: Body
    states: tuple[MuscleState, ...]

    @property
    def names(self) -> Mapping[int, str]:
        """Structure code -> name."""
        return self.body.names

    @property
    def patient(self) -> Patient:
        """Who it is."""
        return self.body.patient

    @property
    def middle(self) -> tuple[float, float]:
        """Where the axis of the trunk is: x, y, mm."""
        return self.body.middle

    def cut(self, geometry: hd.VolumeGeometry, index: float) -> Cut:
        """Return the plane at a (fractional) slice index of an axial grid."""
        cut = self.body.cut(geometry, index)
        pixel = float(geometry.spacing[1])
        codes = {name: code for code, name in self.names.items()}
        tissues, structures = cut.tissues.copy(), cut.structures.copy()
        share = np.zeros(256, np.float32)
        for state in self.states:
            code = codes.get(state.muscle)
            if code is None:
                continue
            share[code] = state.lipid
            if state.loss_mm > 0:
                lost = _rim(cut.structures == code, state.loss_mm, pixel)
                tissues[lost], structures[lost] = Tissue.FAT, 0
        lipid = np.where(tissues == Tissue.MUSCLE, share[structures], np.float32(0))
        return replace(cut, tissues=tissues, structures=structures, lipid=lipid)


def _rim(muscle: NDArray[np.bool_], loss_mm: float, pixel: float) -> NDArray[np.bool_]:
    """Return the outer layer of a muscle in a plane, thinner where the muscle itself is thin."""
    rim = np.zeros(muscle.shape, bool)
    if not muscle.any():
        return rim
    box = bounding_box(muscle, (1, 1))
    inside = muscle[box]
    # Of the middle of a pixel below the surface.
    depth = (ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1] - 0.5) * pixel
    limit = min(loss_mm, float(np.quantile(depth[inside], 1 - _KEPT)))
    rim[box] = inside & (depth < limit)
    return rim
