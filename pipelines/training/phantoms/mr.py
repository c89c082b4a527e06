"""MR phantoms: T1-weighted spin echo of the spine after gadolinium, and the truth about it."""

from dataclasses import dataclass, field, replace

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms import fields
from pipelines.training.phantoms.fields import SmoothField, draw_field
from pipelines.training.phantoms.mr_growths import Choice, Growth, draw_growths, paint
from pipelines.training.phantoms.mr_scanner import (
    MrScanner,
    coil,
    distort,
    draw_mr_scanner,
    reconstruct,
)
from pipelines.training.phantoms.mr_signal import (
    CORD,
    CSF,
    EPIDURAL_FAT,
    VEINS,
    MrLook,
    Weighting,
    draw_mr_look,
    draw_weighting,
)
from pipelines.training.phantoms.mr_spine import CANAL_MM, Canal, Spine, SpinePlane, Vertebra
from pipelines.training.phantoms.patient import Patient
from pipelines.training.phantoms.tissues import FIRST_BONE, Tissue

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

#: What studies have: three tumours at most, some look-alikes, most veins.
USUAL = Choice(tumours=3, look_alikes=3, veins=0.7)
#: Of the canal: the dural sac, and the half width and depth of the cord in mm.
_SAC, _CORD_MM = 0.86, (6.0, 4.2)
#: Cartilage of a vertebral end plate: 0.6 to 1 mm thick (Roberts et al., Spine 1989;14:166), as dark as its bone.
_END_PLATE_MM = 0.8
_TUMOUR_LABEL, _VERTEBRA_LABEL = 2, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MrOptions:
    """What is not left to chance."""

    weighting: Weighting | None = None
    scanner: MrScanner | None = None
    choice: Choice = field(default=USUAL)
    thickness_share: float = 0.9  #: of the slice spacing; the rest is gap
    planes: int = 3  #: thin planes that are averaged into one slice


@dataclass(frozen=True, slots=True, kw_only=True)
class MrPhantom:
    """An image and the truth about it, on the same grid."""

    image: hd.Volume  #: int16, axes (slice, row, column)
    labels: hd.Volume  #: uint8: 1 vertebrae, 2 tumours
    tumours: hd.Volume  #: uint8: the number of the tumour, from 1
    growths: tuple[Growth, ...]  #: those that were drawn; not all need be in view
    patient: Patient
    weighting: Weighting
    thickness_mm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    spine: Spine
    look: MrLook
    scanner: MrScanner
    growths: tuple[Growth, ...]
    slow: SmoothField
    medium: SmoothField
    fine: SmoothField
    codes: Codes  #: of the vertebrae


def mr_phantom(
    spine: Spine,
    geometry: hd.VolumeGeometry,
    rng: np.random.Generator,
    options: MrOptions | None = None,
) -> MrPhantom:
    """Return an MR image of a posed spine on a grid of any direction.

    Parameters
    ----------
    spine
        Who is imaged.
    geometry
        Axes (slice, row, column), affine LPS in mm.
    rng
        Source of all that is left open.
    options
        Sequence, scanner, how many tumours.
    """
    options = options or MrOptions()
    weighting = options.weighting or draw_weighting(rng)
    scanner = options.scanner or draw_mr_scanner(rng)
    look = draw_mr_look(rng, spine.patient, weighting)
    step = float(geometry.spacing[0]) * options.thickness_share
    seen = _seen(spine, geometry)
    growths = draw_growths(
        rng, spine, look, choice=options.choice, near=lambda one: one.name in seen
    )
    scene = _Scene(
        spine=spine,
        look=look,
        scanner=scanner,
        growths=growths,
        slow=draw_field(rng, 90.0, size=8),
        medium=draw_field(rng, 9.0, size=16),
        fine=draw_field(rng, 3.0, size=24),
        codes=np.asarray([one.code for one in spine.vertebrae], np.uint8),
    )
    shape = tuple(geometry.spatial_shape)
    image, labels = np.empty(shape, np.float32), np.empty(shape, np.uint8)
    tumours = np.empty(shape, np.uint8)
    for index in range(shape[0]):
        image[index], labels[index], tumours[index] = _slice(scene, geometry, index, options, rng)
    return _phantom(scene, geometry, (image, labels, tumours), step)


def _phantom(
    scene: _Scene,
    geometry: hd.VolumeGeometry,
    arrays: tuple[Floats, Codes, Codes],
    thickness: float,
) -> MrPhantom:
    image, labels, tumours = arrays
    brightest = max(float(np.percentile(image, 99.5)), 1e-6)
    stored = np.clip(np.rint(image * (scene.scanner.highest / brightest)), 0, 32767)
    volume = hd.Volume(
        array=stored.astype(np.int16), affine=geometry.affine, coordinate_system="PATIENT"
    )
    return MrPhantom(
        image=volume,
        labels=volume.with_array(labels),
        tumours=volume.with_array(tumours),
        growths=scene.growths,
        patient=scene.spine.patient,
        weighting=scene.look.weighting,
        thickness_mm=thickness,
    )


def _seen(spine: Spine, geometry: hd.VolumeGeometry) -> set[str]:
    """Return the names of the vertebrae whose body the middle of some slice comes near."""
    found: set[str] = set()
    for index in range(geometry.spatial_shape[0]):
        at = spine.plane(_coarse(geometry), index).at
        for one in spine.vertebrae:
            if one.name not in found and _is_near(at, one, float(geometry.spacing[0])):
                found.add(one.name)
    return found


def _coarse(geometry: hd.VolumeGeometry) -> hd.VolumeGeometry:
    """The same slices with one pixel for many."""
    slices, rows, columns = geometry.spatial_shape
    affine = geometry.affine.copy()
    affine[:3, 1] *= (rows - 1) / 31
    affine[:3, 2] *= (columns - 1) / 31
    return hd.VolumeGeometry(affine, (slices, 32, 32), coordinate_system="PATIENT")


def _is_near(at: Floats, vertebra: Vertebra, spacing: float) -> bool:
    reach = max(vertebra.half_height, spacing / 2) + 6
    away = np.linalg.norm(at - np.asarray(vertebra.centre, np.float32), axis=-1)
    return bool(away.min() < reach)


def _slice(
    scene: _Scene,
    geometry: hd.VolumeGeometry,
    index: int,
    options: MrOptions,
    rng: np.random.Generator,
) -> tuple[Floats, Codes, Codes]:
    """Return a slice: magnitude, labels, tumours. The truth is that of its middle plane."""
    count = options.planes
    away = [options.thickness_share * (number - count // 2) / count for number in range(count)]
    planes = [_received(scene, geometry, index + one) for one in away]
    mean = np.asarray(np.mean([one[0] for one in planes], axis=0), np.float32)
    _, *truth = planes[count // 2]
    made = reconstruct(mean, scene.look.marrow, scene.scanner, rng)
    return made, truth[0], truth[1]


def _received(
    scene: _Scene, geometry: hd.VolumeGeometry, index: float
) -> tuple[Floats, Codes, Codes]:
    """Return what the coils receive of a thin plane, and what is there."""
    plane = scene.spine.plane(geometry, index)
    norm, behind = scene.spine.canal.around(plane.at)
    plane = _with_canal(plane, norm, scene.spine.canal)
    points = fields.coarse_points(geometry, index)
    shape = plane.cut.tissues.shape
    slow, medium, fine = (
        fields.upsample(fields.evaluate(one, points), *shape)
        for one in (scene.slow, scene.medium, scene.fine)
    )
    pixel = float(geometry.spacing[1])
    signal = _signal(scene, plane, norm, (medium, fine), pixel)
    tumours = paint(scene.growths, plane, norm, signal)
    cut = plane.cut
    bone = (cut.tissues >= FIRST_BONE) & np.isin(cut.structures, scene.codes)
    labels = np.where(bone, np.uint8(_VERTEBRA_LABEL), np.uint8(0))
    labels[tumours > 0] = _TUMOUR_LABEL
    metal = cut.tissues == Tissue.METAL
    signal[metal] = 0
    made = distort(signal, metal, scene.scanner, pixel) * coil(behind, slow, scene.scanner)
    return made, labels, tumours


def _signal(
    scene: _Scene, plane: SpinePlane, norm: Floats, textures: tuple[Floats, Floats], pixel: float
) -> Floats:
    """Return what each pixel would measure in a perfect scanner."""
    cut, look = plane.cut, scene.look
    medium, fine = textures
    codes = cut.tissues.copy()
    _fill_canal(codes, plane, norm, scene.spine)
    signal = look.signal[codes] * (1 + 0.06 * medium + 0.03 * fine)
    muscle = codes == Tissue.MUSCLE
    fat = look.signal[Tissue.FAT]
    streaks = np.clip(fine - 1.2 + 4 * scene.spine.patient.muscle_fat, 0, 1)
    signal[muscle] += (streaks * (fat - signal))[muscle] * 0.6
    covered = cut.depth + np.where(codes == Tissue.DISC, np.float32(_END_PLATE_MM), np.float32(0))
    bone = covered > -0.75 * pixel
    inside = np.clip(covered / pixel + 0.5, 0, 1)
    core = np.clip((cut.depth - cut.cortex) / pixel + 0.5, 0, 1)
    marrow = look.signal[Tissue.SPINE] * (1 + 0.1 * medium + 0.08 * fine)
    soft = np.where(codes >= FIRST_BONE, look.signal[Tissue.MUSCLE], signal)
    # A cortex measures nothing: it only takes the place of what does.
    with_bone = (1 - inside) * soft + core * np.where(codes >= FIRST_BONE, marrow, signal)
    metal = codes == Tissue.METAL
    return np.asarray(np.where(bone & ~metal, with_bone, signal), np.float32)


def _with_canal(plane: SpinePlane, norm: Floats, canal: Canal) -> SpinePlane:
    """Cut the canal out of the bone and the discs that reach into it: a map's canal is no smooth tube, ours is."""
    cut, z = plane.cut, plane.at[..., 2]
    along = (z > canal.heights[0] - 10) & (z < canal.heights[-1] + 10)
    tube = along & (norm < 1) & (cut.tissues != Tissue.AIR) & (cut.tissues != Tissue.METAL)
    wall = np.where(along, (norm - 1) * np.float32(CANAL_MM[1]), np.inf)
    return replace(
        plane,
        cut=replace(
            cut,
            tissues=np.where(tube, np.uint8(Tissue.CANAL), cut.tissues),
            structures=np.where(tube, np.uint8(0), cut.structures),
            depth=np.minimum(cut.depth, wall).astype(np.float32),
        ),
    )


def _fill_canal(codes: Codes, plane: SpinePlane, norm: Floats, spine: Spine) -> None:
    """Put dural sac, cord, epidural fat and veins into the canal, in place."""
    x, y, z = (plane.at[..., axis] for axis in range(3))
    canal = spine.canal
    within = (codes == Tissue.CANAL) & (norm < 1)
    codes[codes == Tissue.CANAL] = EPIDURAL_FAT
    across = x - np.interp(z, canal.heights, canal.middles[:, 0])
    behind = y - np.interp(z, canal.heights, canal.middles[:, 1])
    # The venous plexus lies in front, to both sides.
    front = within & (behind < -0.45 * CANAL_MM[1]) & (np.abs(across) > 0.35 * CANAL_MM[0])
    codes[front] = VEINS
    codes[within & (norm < _SAC)] = CSF
    thinner = np.clip((z - canal.conus) / 25, 0, 1)
    cord = np.hypot(across / _CORD_MM[0], behind / _CORD_MM[1]) < thinner
    codes[within & cord] = CORD
    # Below the cord its roots float in the back of the sac.
    roots = within & (z < canal.conus + 6) & (behind > 1) & (behind < 5) & (norm < 0.8)
    codes[roots & (np.sin(across * 2.1) > 0.2)] = CORD
