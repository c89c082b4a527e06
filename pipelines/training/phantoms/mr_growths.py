"""What grows in and beside a spine: tumours that enhance, and what looks like one and is none.

Sizes, places and signals are ours; more frequent than in patients, to be met in training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms import fields
from pipelines.training.phantoms.fields import SmoothField
from pipelines.training.phantoms.mr_signal import (
    CORD,
    EPIDURAL_FAT,
    MrLook,
    Substance,
    Weighting,
    draw_signal,
)
from pipelines.training.phantoms.mr_spine import CANAL_MM, Canal, Spine, SpinePlane, Vertebra
from pipelines.training.phantoms.tissues import FIRST_BONE, Cut, Tissue

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Point = tuple[float, float, float]
Box = tuple[slice, slice]


class Kind(StrEnum):
    """What it is."""

    BODY = "tumour of a vertebral body"
    ARCH = "tumour of a vertebral arch"
    EPIDURAL = "epidural tumour"
    INTRADURAL = "intradural tumour"
    HAEMANGIOMA = "haemangioma"
    SCHMORL = "Schmorl node"
    OEDEMA = "degenerative end plate, Modic 1"
    FATTY = "degenerative end plate, Modic 2"
    VEIN = "basivertebral vein"


TUMOURS = frozenset({Kind.BODY, Kind.ARCH, Kind.EPIDURAL, Kind.INTRADURAL})

_TUMOUR = Substance(t1=(1000, 1600), t2=(50, 110), protons=(0.75, 0.95), uptake=(0.25, 1.0))
_NECROSIS = Substance(t1=(1300, 2200), t2=(80, 200), protons=(0.85, 0.95), uptake=(0.0, 0.15))
_SUBSTANCES = {
    Kind.HAEMANGIOMA: Substance(
        t1=(1200, 1600), t2=(60, 110), protons=(0.8, 0.95), fat=(0.45, 0.8), uptake=(0.2, 0.6)
    ),
    Kind.SCHMORL: Substance(t1=(900, 1300), t2=(45, 100), protons=(0.6, 0.9), uptake=(0.0, 0.2)),
    Kind.OEDEMA: Substance(t1=(1100, 1500), t2=(60, 100), protons=(0.75, 0.9), uptake=(0.1, 0.35)),
    Kind.FATTY: Substance(t1=(900, 1200), t2=(40, 60), protons=(0.8, 0.95), fat=(0.7, 0.9)),
    Kind.VEIN: Substance(t1=(1500, 1900), t2=(60, 120), protons=(0.7, 0.9), uptake=(0.2, 0.9)),
}
#: By which share a tumour's signal differs from that of what it grows in: what no reader sees, nobody labels.
_SEEN, _TRIES = 0.25, 20
_SOLID_MM = 1.2  # over which a tumour's edge fades into marrow


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """One of them, in the frame of the spine."""

    kind: Kind
    number: int  #: of the tumour, from 1; 0 for what is none
    code: int  #: of the vertebra that it is in or beside
    centre: Point
    radii: Point  #: across, from front to back, along the spine; mm
    signal: float
    core: float | None  #: signal of what is dead inside
    roughness: float  #: how uneven the surface is
    beyond: bool  #: whether it grows out of the bone
    texture: SmoothField

    @property
    def is_tumour(self) -> bool:
        """Whether it counts."""
        return self.kind in TUMOURS


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How many there are of what."""

    tumours: int  #: at most this many
    fewest: int = 0  #: at least this many
    look_alikes: int
    veins: float  #: share of the vertebrae whose basivertebral vein is seen


def draw_growths(
    rng: np.random.Generator,
    spine: Spine,
    look: MrLook,
    *,
    choice: Choice,
    near: Callable[[Vertebra], bool] = lambda vertebra: True,
) -> tuple[Growth, ...]:
    """Draw tumours and look-alikes.

    Parameters
    ----------
    rng
        Source of chance.
    spine
        Whose.
    look
        What its tissues measure.
    choice
        How many.
    near
        Which vertebrae are imaged.
    """
    vertebrae = [one for one in spine.vertebrae if near(one)]
    if not vertebrae:
        return ()
    host = _Host(canal=spine.canal, look=look)
    made = []
    for vertebra in vertebrae:
        if rng.random() < choice.veins:
            made.append(_growth(rng, (Kind.VEIN, 0), vertebra, host))
    others = [Kind.HAEMANGIOMA, Kind.SCHMORL, Kind.OEDEMA, Kind.FATTY]
    for _ in range(int(rng.integers(choice.look_alikes + 1))):
        kind = others[int(rng.integers(len(others)))]
        made.append(_growth(rng, (kind, 0), _one_of(rng, vertebrae), host))
    kinds = [Kind.BODY, Kind.ARCH, Kind.EPIDURAL, Kind.INTRADURAL]
    for number in range(1, int(rng.integers(choice.fewest, choice.tumours + 1)) + 1):
        kind = kinds[int(rng.choice(len(kinds), p=[0.55, 0.13, 0.17, 0.15]))]
        made.append(_growth(rng, (kind, number), _one_of(rng, vertebrae), host))
    return tuple(made)


def paint(
    growths: tuple[Growth, ...], plane: SpinePlane, norm: Floats, signal: Floats
) -> NDArray[np.uint8]:
    """Paint growths over the signal of a plane, in place, and return which tumour is where.

    Parameters
    ----------
    growths
        Later ones over earlier ones.
    plane
        The plane.
    norm
        Distance from the canal's axis as a share of the canal, shape (rows, columns).
    signal
        float32, same shape.

    Returns
    -------
    numpy.ndarray
        uint8, the tumour's number, 0 where there is none.
    """
    tumours = np.zeros(signal.shape, np.uint8)
    for growth in growths:
        reach = 1.6 * max(growth.radii)
        box = _box(plane.at, growth.centre, reach)
        if box is None:
            continue
        at = plane.at[box]
        size, texture = _size(growth, at)
        allowed = _allowed(growth, plane.cut, norm, box)
        share = np.clip((1 - size) * min(growth.radii) / _SOLID_MM + 0.5, 0, 1) * allowed
        level = growth.signal * (1 + 0.12 * texture)
        if growth.kind is Kind.HAEMANGIOMA:  # thick trabeculae that stand upright
            level = level * (0.8 + 0.2 * np.cos(2 * np.pi * at[..., 0] / 3.0))
        if growth.core is not None:
            inside = np.clip((0.6 - size) * 6, 0, 1)
            level = (1 - inside) * level + inside * growth.core
        signal[box] += (share * (level - signal[box])).astype(np.float32)
        if growth.is_tumour:
            tumours[box][share >= 0.5] = growth.number
    return tumours


def _one_of(rng: np.random.Generator, vertebrae: list[Vertebra]) -> Vertebra:
    return vertebrae[int(rng.integers(len(vertebrae)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Host:
    """In whom, and how it is imaged."""

    canal: Canal
    look: MrLook

    def around(self, kind: Kind) -> float:
        """Return the signal of what a tumour grows in."""
        codes = {Kind.EPIDURAL: EPIDURAL_FAT, Kind.INTRADURAL: CORD}
        return float(self.look.signal[codes.get(kind, Tissue.SPINE)])


def _growth(
    rng: np.random.Generator, what: tuple[Kind, int], vertebra: Vertebra, host: _Host
) -> Growth:
    kind, number = what
    weighting = host.look.weighting
    if kind in TUMOURS:
        signal = _tumour_signal(rng, weighting, host.around(kind))
    else:
        signal = draw_signal(rng, _SUBSTANCES[kind], weighting)
    centre, radii = _place(rng, kind, vertebra, host.canal)
    dead = kind in TUMOURS and min(radii) > 6 and rng.random() < 0.2
    return Growth(
        kind=kind,
        number=number,
        code=vertebra.code,
        centre=centre,
        radii=radii,
        signal=signal,
        core=draw_signal(rng, _NECROSIS, weighting) if dead else None,
        roughness=0.06 if kind is Kind.INTRADURAL else float(rng.uniform(0.08, 0.22)),
        beyond=kind in (Kind.BODY, Kind.ARCH) and rng.random() < 0.3,
        texture=fields.draw_field(rng, float(rng.uniform(5, 9)), size=12),
    )


def _tumour_signal(rng: np.random.Generator, weighting: Weighting, around: float) -> float:
    """Draw the signal of a tumour that is seen; where none is, the one of some that is seen best."""
    drawn: list[float] = []
    while len(drawn) < _TRIES:
        drawn.append(draw_signal(rng, _TUMOUR, weighting))
        if abs(drawn[-1] - around) >= _SEEN * around:
            return drawn[-1]
    return max(drawn, key=lambda signal: abs(signal - around))


def _place(
    rng: np.random.Generator, kind: Kind, vertebra: Vertebra, canal: Canal
) -> tuple[Point, Point]:
    """Return middle and radii, mm."""
    centre, up = np.asarray(vertebra.centre), np.asarray(vertebra.up)
    half, deep = vertebra.half_height, vertebra.half_depth
    middle = np.asarray(
        [*(np.interp(centre[2], canal.heights, part) for part in canal.middles.T), centre[2]]
    )
    end = float(rng.choice([-1.0, 1.0])) * half * up
    match kind:
        case Kind.BODY:
            offset = rng.uniform([-14, -0.6 * deep, -0.6 * half], [14, 0.6 * deep, 0.6 * half])
            whole = rng.random() < 0.15
            radii = rng.uniform(4, 15) * rng.uniform(0.75, 1.3, 3) * (1.6 if whole else 1.0)
            place = centre + (0.2 if whole else 1.0) * offset
        case Kind.ARCH:
            place = middle + rng.uniform([-24, 8, -14], [24, 24, 6])
            radii = rng.uniform(5, 12) * rng.uniform(0.75, 1.3, 3)
        case Kind.EPIDURAL:
            angle = rng.uniform(0, 2 * np.pi)
            rim = [CANAL_MM[0] * np.sin(angle), CANAL_MM[1] * np.cos(angle), rng.uniform(-12, 12)]
            place = middle + np.asarray(rim)
            radii = np.asarray([rng.uniform(4, 9), rng.uniform(4, 8), rng.uniform(8, 26)])
        case Kind.INTRADURAL:
            place = middle + rng.uniform([-5, -4, -12], [5, 4, 12])
            radii = rng.uniform(3, 7) * np.asarray([1.0, 0.9, rng.uniform(1, 2.2)])
        case Kind.HAEMANGIOMA:
            offset = rng.uniform([-13, -0.5 * deep, -0.5 * half], [13, 0.5 * deep, 0.5 * half])
            place, radii = centre + offset, rng.uniform(3, 11) * rng.uniform(0.85, 1.15, 3)
        case Kind.SCHMORL:
            place = centre + end + rng.uniform([-12, -0.5 * deep, 0], [12, 0.5 * deep, 0])
            radii = rng.uniform(2.5, 7) * np.asarray([1.0, 1.0, 0.8])
        case Kind.VEIN:
            place = centre + rng.normal([0, 0.8 * deep, 0], [1, 0, 1])
            radii = np.asarray([rng.uniform(3, 8), 0.45 * deep, rng.uniform(1.0, 2.4)])
        case Kind.OEDEMA | Kind.FATTY:
            place = centre + end + rng.uniform([0, -0.5 * deep, 0], [0, 0.5 * deep, 0])
            radii = np.asarray(
                [rng.uniform(12, 30), deep * rng.uniform(0.5, 1.4), rng.uniform(3, 9)]
            )
    return _point(place), _point(radii)


def _size(growth: Growth, at: Floats) -> tuple[Floats, Floats]:
    """Return the distance from the middle as a share of the radii, 1 at the surface; and a texture."""
    offset = (at - np.asarray(growth.centre, np.float32)) / np.asarray(growth.radii, np.float32)
    texture = fields.evaluate(growth.texture, at)
    size = np.linalg.norm(offset, axis=-1) + np.float32(growth.roughness) * texture
    return np.asarray(size, np.float32), texture


def _allowed(growth: Growth, cut: Cut, norm: Floats, box: Box) -> Mask:
    """Return where in a part of a plane it can be."""
    tissues, structures, norm = cut.tissues[box], cut.structures[box], norm[box]
    body = ~np.isin(tissues, (Tissue.AIR, Tissue.SKIN, Tissue.METAL, Tissue.LUNG, Tissue.GAS))
    bone = (tissues >= FIRST_BONE) & (structures == growth.code)
    if growth.kind is Kind.INTRADURAL:
        return np.asarray(norm < 0.85)
    if growth.kind is Kind.EPIDURAL:
        return np.asarray(body & (norm > 0.62) & (tissues < FIRST_BONE) & (tissues != Tissue.DISC))
    if growth.beyond:
        soft = body & (tissues < FIRST_BONE) & (tissues != Tissue.DISC) & (norm > 0.6)
        return np.asarray(bone | soft)
    if growth.is_tumour:
        return np.asarray(bone)
    return np.asarray(bone & (cut.depth[box] > 0.5 * cut.cortex[box]))


def _box(at: Floats, centre: Point, reach: float) -> Box | None:
    """Return the rows and columns of a plane that come within reach of a point; None: none do."""
    away = np.abs(at[::2, ::2] - np.asarray(centre, np.float32)).max(axis=-1)
    near = np.asarray(away < reach + 2)
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if rows.size == 0:
        return None
    return (
        slice(max(0, 2 * int(rows[0]) - 2), 2 * int(rows[-1]) + 3),
        slice(max(0, 2 * int(columns[0]) - 2), 2 * int(columns[-1]) + 3),
    )


def _point(vector: NDArray[np.float64]) -> Point:
    x, y, z = vector
    return float(x), float(y), float(z)
