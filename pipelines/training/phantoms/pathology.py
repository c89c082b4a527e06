"""What age, disease and accidents do to bone: cortex, mineral, lesions, fractures."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms import fields
from pipelines.training.phantoms.fields import Floats
from pipelines.training.phantoms.patient import FractureKind, Patient
from pipelines.training.phantoms.tissues import Tissue

Codes = NDArray[np.uint8]
Point = tuple[float, float, float]

#: Thickness of a young man's cortex, mm: ours, adjusted by eye to one real CT. Of the skull: both
#: tables.
_CORTEX: dict[Tissue, float] = {
    Tissue.SPINE: 0.5,
    Tissue.RIB: 0.9,
    Tissue.FLAT_BONE: 1.6,
    Tissue.LONG_BONE: 3.0,
    Tissue.SKULL: 2.4,
}
#: Mineral in marrow as a share of L1's: ours, adjusted by eye to one real CT.
_MINERAL: dict[Tissue, float] = {
    Tissue.SPINE: 1.0,
    Tissue.RIB: 1.0,
    Tissue.FLAT_BONE: 1.2,
    Tissue.LONG_BONE: 0.35,
    Tissue.SKULL: 2.2,
}
_ARCH = 0.9  # mm by which the cortex of a vertebra's arch is thicker than that of its body
_SOCKET_MM = 32.0  # from the centre of the femoral head: the weight-bearing bone of the socket
#: The femur: mm from the centre of the head, share of L1's mineral.
_FEMUR_MINERAL = (
    (0.0, 10.0, 21.0, 32.0, 50.0, 80.0, 120.0),
    (2.7, 2.5, 1.5, 1.0, 0.6, 0.25, 0.0),
)
#: The femur: mm from the centre of the head, thickness in mm (ours).
_FEMUR = ((0.0, 30.0, 45.0, 70.0, 110.0, 200.0), (0.8, 1.0, 1.6, 2.4, 5.2, 6.8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A place where marrow and cortex are denser or sparser, in the frame of the bone."""

    code: int  #: of the structure
    centre: Point
    density: float  #: -1 to 1
    radius_mm: float
    normal: Point | None  #: of a crack; None: a round lesion
    width_mm: float  #: of a crack
    on_femur: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """A vertebral body that has lost height in front."""

    centre: Point
    loss_mm: float
    half_height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where structures of a body are, in its own frame."""

    codes: Mapping[str, int]  #: name -> code
    middles: Mapping[str, Point]  #: name -> middle of the bone
    #: Draws a point inside a structure and the direction in which the bone runs there.
    draw: Callable[[str, np.random.Generator], tuple[Point, Point]]


def restrict(patient: Patient, names: Collection[str]) -> Patient:
    """Return the patient without lesions, fractures and implants of bones a body does not have."""

    def has(site: str) -> bool:
        return site in names or f"femur_{site}" in names

    return replace(
        patient,
        lesions=tuple(one for one in patient.lesions if has(one.structure)),
        fractures=tuple(one for one in patient.fractures if has(one.structure)),
        implants=tuple(one for one in patient.implants if has(one.site)),
    )


def place(patient: Patient, places: Places, rng: np.random.Generator) -> tuple[Damage, ...]:
    """Give lesions and cracks a place in the bones that they are in."""
    made = []
    for lesion in patient.lesions:
        centre, _ = places.draw(lesion.structure, rng)
        made.append(
            Damage(
                code=places.codes[lesion.structure],
                centre=centre,
                density=lesion.density,
                radius_mm=lesion.radius_mm,
                normal=None,
                width_mm=0.0,
                on_femur=lesion.structure.startswith("femur"),
            )
        )
    for fracture in patient.fractures:
        if fracture.kind is FractureKind.CRACK:
            centre, normal = places.draw(fracture.structure, rng)
            made.append(
                Damage(
                    code=places.codes[fracture.structure],
                    centre=centre,
                    density=-1.0,
                    radius_mm=30.0,
                    normal=normal,
                    width_mm=fracture.severity,
                    on_femur=fracture.structure.startswith("femur"),
                )
            )
    return tuple(made)


def compress(patient: Patient, middles: Mapping[str, Point]) -> tuple[Compression, ...]:
    """Return the compressed vertebrae of a patient."""
    half = 13.0  # mm, of a thoracolumbar vertebral body
    return tuple(
        Compression(
            centre=middles[one.structure],
            loss_mm=2 * half * one.severity,
            half_height=half,
        )
        for one in patient.fractures
        if one.kind is FractureKind.COMPRESSION and one.structure in middles
    )


def sink(compression: Compression, points: Floats) -> Floats:
    """Return by how much points near a compressed vertebra lie too low, mm.

    The upper end plate sinks most, the lower one stays; what is above follows it less and less.
    The loss is greatest in front: a wedge.
    """
    x, y, z = (points[..., axis] - compression.centre[axis] for axis in range(3))
    half = compression.half_height
    rise = np.clip((z + half) / (2 * half - compression.loss_mm), 0, 1)
    fade = np.clip(1 - (z - half) / (5 * half), 0, 1)
    front = 1 / (1 + np.exp(np.clip((y - 12) / 5, -30, 30)))
    around = np.exp(-0.5 * (np.square(x / 38) + np.square(np.minimum(y + 30, 0) / 30)))
    return np.asarray(compression.loss_mm * rise * fade * front * around, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where in the skeleton the pixels of a plane are, shape (rows, columns)."""

    tissues: Codes  #: `Tissue` of the bone here or close by, 0 none
    femur: NDArray[np.bool_]
    away: Floats | None = None  #: from the nearer femoral head, mm; None where none is near
    arch: Floats | None = None  #: 1 in a vertebra's arch, 0 in its body


def cortex(patient: Patient, site: Site) -> Floats:
    """Return how thick the cortex is, mm, shape (rows, columns)."""
    table = np.zeros(256, np.float32)
    for tissue, thickness in _CORTEX.items():
        table[tissue] = thickness
    made = table[site.tissues]
    if site.arch is not None:
        made[site.tissues == Tissue.SPINE] += (_ARCH * site.arch)[site.tissues == Tissue.SPINE]
    if site.away is not None:
        socket = (site.away < _SOCKET_MM) & (site.tissues == Tissue.FLAT_BONE)
        made[socket] *= 1.6
        made[site.femur] = np.interp(site.away[site.femur], *_FEMUR)
    return made * np.float32(patient.cortex)


def mineral(patient: Patient, site: Site) -> Floats:
    """Return the mineral in healthy marrow, mg/cm3, shape (rows, columns)."""
    table = np.zeros(256, np.float32)
    for tissue, share in _MINERAL.items():
        table[tissue] = share
    made = table[site.tissues]
    if site.arch is not None:
        made[site.tissues == Tissue.SPINE] *= (1 + site.arch)[site.tissues == Tissue.SPINE]
    if site.away is not None:
        made[site.femur] = np.interp(site.away[site.femur], *_FEMUR_MINERAL)
    return made * np.float32(patient.trabecular_mg)


def density(damage: Damage, points: Floats, structures: Codes) -> Floats | None:
    """Return the density a lesion or a crack adds, shape (rows, columns); None if it is elsewhere.

    Parameters
    ----------
    damage
        What is wrong.
    points
        Coarse, shape (coarse rows, coarse columns, 3): mm in the frame of the bone.
    structures
        Structure codes, shape (rows, columns).
    """
    offset = points - np.asarray(damage.centre, np.float32)
    inside = structures == damage.code
    if np.abs(offset[..., 2]).min() > damage.radius_mm + 4 or not inside.any():
        return None
    fine = fields.upsample(offset, *structures.shape)
    away = np.linalg.norm(fine, axis=-1)
    share = np.clip((damage.radius_mm - away) / 3 + 0.5, 0, 1)
    if damage.normal is not None:
        across = np.abs(fine @ np.asarray(damage.normal, np.float32))
        share = (away < damage.radius_mm) * np.clip(
            (damage.width_mm / 2 - across) / 0.7 + 0.5, 0, 1
        )
    return np.asarray(damage.density * share * inside, np.float32)


def damaged(
    healthy: Floats, density: Floats | None, patient: Patient
) -> tuple[Floats, Floats | None]:
    """Return the mineral of diseased marrow, and what share of bone is gone altogether."""
    if density is None:
        return healthy, None
    sclerosis = np.clip(density, 0, 1) * np.float32(0.55 * patient.cortical_mg)
    gone = np.clip(-density, 0, 1)
    return healthy * (1 - gone) + sclerosis, gone
