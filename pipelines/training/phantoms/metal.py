"""Metal in a plane: what an implant takes the place of, and what it is called."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms import implants
from pipelines.training.phantoms.femora import Femur
from pipelines.training.phantoms.patient import Implant, Patient
from pipelines.training.phantoms.shapes import Floats, Point, Points
from pipelines.training.phantoms.tissues import Cut, Tissue

_ELSEWHERE = np.float32(1e3)  # mm


@dataclass(frozen=True, slots=True, kw_only=True)
class Hip:
    """One hip and the pixels of a plane; points broadcast to the shape (rows, columns), mm."""

    side: str  #: of the source, `left` or `right`
    femur: Femur
    turned: Points  #: the pixels in the frame of the femur
    fixed: Points  #: the pixels in the frame of the hip bone
    near: NDArray[np.bool_]  #: where this hip's metal may be


def metal_names(patient: Patient) -> list[str]:
    """Return the names of the structures that a patient's implants are."""
    return sorted({_name(implant) for implant in patient.implants})


def add_to_hip(cut: Cut, implant: Implant, hip: Hip, codes: Mapping[str, int]) -> Cut:
    """Return the plane with a prosthesis, a plate or wires; `codes` by name of structure."""
    distance = implants.in_femur(hip.turned, hip.femur, implant, hip.side)
    cup = implants.in_hip(hip.fixed, hip.femur, implant, hip.side)
    if cup is not None:
        femur = cut.structures == codes[f"femur_{implant.site}"]
        cut = _without(cut, femur & implants.resected(hip.turned, hip.femur))
        distance = np.minimum(distance, cup)
    return _with_metal(cut, np.where(hip.near, distance, _ELSEWHERE), codes[_name(implant)])


def add_screws(
    cut: Cut, implant: Implant, at: Points, body: Point, codes: Mapping[str, int]
) -> Cut:
    """Return the plane with the screws of a vertebra, of which the middle of the body is given."""
    return _with_metal(cut, implants.screws(at, body), codes[_name(implant)])


def _name(implant: Implant) -> str:
    return f"{implant.kind.value}_{implant.site}"


def _without(cut: Cut, where: NDArray[np.bool_]) -> Cut:
    """Return the plane without the bone in some place: scar is left."""
    if not where.any():
        return cut
    return replace(
        cut,
        tissues=np.where(where, np.uint8(Tissue.MUSCLE), cut.tissues),
        structures=np.where(where, np.uint8(0), cut.structures),
        depth=np.where(where, np.float32(-3.0), cut.depth),
    )


def _with_metal(cut: Cut, distance: Floats, code: int) -> Cut:
    """Return the plane with metal where the distance is negative. Metal is not bone."""
    metal = (distance < 0) & (cut.tissues != Tissue.AIR)
    if not metal.any():
        return cut
    return replace(
        cut,
        tissues=np.where(metal, np.uint8(Tissue.METAL), cut.tissues),
        structures=np.where(metal, np.uint8(code), cut.structures),
        depth=np.where(metal, np.minimum(cut.depth, np.float32(-0.1)), cut.depth),
    )
