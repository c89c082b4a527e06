"""A body from formulas: no data needed, exact truth, any part from the thighs to the chest."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms import bones, metal, organs, pathology
from pipelines.training.phantoms.femora import Femur, rotation
from pipelines.training.phantoms.names import sided
from pipelines.training.phantoms.patient import Implant, ImplantKind, Patient, draw_patient
from pipelines.training.phantoms.render import ImagedRegion, Subject, grid_of, image_body
from pipelines.training.phantoms.shapes import Floats, Points
from pipelines.training.phantoms.tissues import Cut, Phantom, Tissue
from pipelines.training.phantoms.trunk import TRUNK_MUSCLES

_SIDES = ("left", "right")
_ORGANS = ("liver", "spleen", "stomach", "kidney_left", "kidney_right", "urinary_bladder", "heart",
           "aorta", "inferior_vena_cava")  # fmt: skip
_LEVELS = ("L5", "L4", "L3", "L2", "L1", *(f"T{n}" for n in range(12, 0, -1)))
_HIPS_TOP = 60.0  # mm: femora and their metal are below
_PAIRED = ("hip_bone", "femur", *TRUNK_MUSCLES)
_NAMES: dict[int, str] = dict(
    enumerate(
        [
            *_LEVELS,
            "sacrum",
            "sternum",
            *(sided(f"rib_{n}", side) for side in _SIDES for n in range(1, 13)),
            *(sided(name, side) for side in _SIDES for name in _PAIRED),
            "intervertebral_discs",
            "spinal_canal",
            *_ORGANS,
        ],
        start=1,
    )
)
_CODES = {name: code for code, name in _NAMES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProceduralOptions:
    """What is imaged of the procedural body.

    Heights are mm above the hip joints: 0 pelvis, 180 abdomen, 420 chest, -150 thighs.
    """

    slices: int = 40
    rows: int = 256
    columns: int = 256
    pixel_spacing: float = 1.6  #: mm
    slice_spacing: float = 5.0  #: mm
    slice_thickness: float | None = None  #: mm; None: the slice spacing
    middle: float = 60.0  #: height of the middle slice, mm
    across: tuple[float, float] = (0.0, 15.0)  #: x and y of the middle of the image, mm
    contrast: bool | None = True  #: contrast medium; None leaves it to chance


@dataclass(frozen=True, slots=True, kw_only=True)
class ProceduralBody:
    """A patient made of formulas; a `Body`."""

    patient: Patient
    build: organs.Build
    names: Mapping[int, str]
    middle: tuple[float, float] = (0.0, 5.0)

    def cut(self, geometry: hd.VolumeGeometry, index: float) -> Cut:
        """Return the plane at a (fractional) slice index of an axial grid."""
        scale = self.build.scale
        affine = geometry.affine
        x, y = (
            (affine[a, 2 - a] * np.arange(geometry.spatial_shape[2 - a]) + affine[a, 3]) / scale
            for a in (0, 1)
        )
        z = float(affine[2, 0] * index + affine[2, 3]) / scale
        across, down = x.astype(np.float32)[None, :], y.astype(np.float32)[:, None]
        tissues, structures = organs.paint_soft_tissue(across, down, z, self.build, _CODES)
        depth, bone = self._add_bones(tissues, structures, across, down, z)
        femur = np.isin(bone, [_CODES["femur_left"], _CODES["femur_right"]])
        away = None
        if femur.any():
            heads = [
                np.sqrt(np.square(across - side * 90) + np.square(down) + np.float32(z) ** 2)
                for side in (1, -1)
            ]
            away = np.minimum(*heads)
        arch = np.clip((down - bones.SPINE_Y - 18) / 6, 0, 1) * np.ones_like(across)
        site = pathology.Site(tissues=_KINDS[bone], femur=femur, away=away, arch=arch)
        cut = Cut(
            tissues=tissues,
            structures=structures,
            depth=depth * np.float32(scale),
            cortex=pathology.cortex(self.patient, site),
            mineral=pathology.mineral(self.patient, site),
        )
        at = (across, down, np.full((1, 1), z, np.float32))
        for implant in self.patient.implants:
            cut = self._with_implant(cut, implant, at)
        return cut

    def _add_bones(
        self,
        tissues: NDArray[np.uint8],
        structures: NDArray[np.uint8],
        x: Floats,
        y: Floats,
        z: float,
    ) -> tuple[Floats, NDArray[np.uint8]]:
        """Put the bones that a slice cuts in, in place.

        Returns mm below the bone surface, and the code of the bone here or close by.
        """
        level = np.full((1, 1), z, np.float32)
        _paint_spinal_column(tissues, structures, x, y, z)
        found = [*_axial_bones(x, y, level)]
        if z < 190:
            found += [
                (_CODES[f"hip_bone_{name}"], bones.hip_bone(x, y, level, sign))
                for name, sign in (("left", 1), ("right", -1))
            ]
        if z < _HIPS_TOP:
            found += [(_CODES[f"femur_{name}"], self._femur(x, y, level, name)) for name in _SIDES]
        depth = np.full(tissues.shape, -1e3, np.float32)
        bone = np.zeros(tissues.shape, np.uint8)
        inside = (tissues != Tissue.AIR) & (tissues != Tissue.SKIN)
        for code, distance in found:
            # Femora come last and are rigid: where one is, nothing else is.
            closer = inside & (
                (-distance > depth) | ((distance < 0) & (_KINDS[code] == Tissue.LONG_BONE))
            )
            depth = np.where(closer, -distance, depth)
            bone[closer & (distance < 4)] = code
        solid = depth > 0
        tissues[solid] = _KINDS[bone[solid]]
        structures[solid] = bone[solid]
        return depth, bone

    def _femur(self, x: Floats, y: Floats, z: Floats, side: str) -> Floats:
        sign = 1 if side == "left" else -1
        turned = self._turned(x, y, z, side)
        return bones.femur(*turned, sign)

    def _turned(self, x: Floats, y: Floats, z: Floats, side: str) -> tuple[Floats, Floats, Floats]:
        """Return points in the frame of a femur that stands in its joint as drawn."""
        sign = 1 if side == "left" else -1
        matrix = rotation(self.patient.hips[_SIDES.index(side)], side)
        a, b, c = x - np.float32(90 * sign), y, z
        one, two, three = (matrix[row, 0] * a + matrix[row, 1] * b + matrix[row, 2] * c
                           for row in range(3))  # fmt: skip
        return one + np.float32(90 * sign), two, three

    def _with_implant(self, cut: Cut, implant: Implant, at: Points) -> Cut:
        codes = {name: code for code, name in self.names.items()}
        x, y, z = at
        if implant.kind is ImplantKind.PEDICLE_SCREWS:
            height = bones.VERTEBRAE[_LEVELS.index(implant.site)]
            return metal.add_screws(cut, implant, at, (0.0, bones.SPINE_Y - 2, height), codes)
        if z.item() > _HIPS_TOP:
            return cut
        side = implant.site
        hip = metal.Hip(
            side=side,
            femur=femur_landmarks(side),
            turned=self._turned(x, y, z, side),
            fixed=at,
            near=(x > 0) == (side == "left"),
        )
        return metal.add_to_hip(cut, implant, hip, codes)


def procedural_phantom(
    options: ProceduralOptions, *, seed: int, subject: Subject | None = None, workers: int = 1
) -> Phantom:
    """Return a CT image of a procedural body and the truth about it.

    Parameters
    ----------
    options
        Grid and region.
    seed
        Same seed, same options: same phantom.
    subject
        Patient and scanner, where they are not to be drawn.
    workers
        Slices made at a time.

    Returns
    -------
    Phantom
        Axes (slice, row, column); slices run to the feet, rows to the back, columns to the left.
    """
    subject = subject or Subject(contrast=options.contrast)
    rng = np.random.default_rng(seed)
    patient = subject.patient or draw_patient(rng, contrast=subject.contrast)
    body = procedural_body(patient, rng)
    region = ImagedRegion(
        centre=(0.0, 0.0, 0.0),
        shape=(options.slices, options.rows, options.columns),
        pixel_spacing=options.pixel_spacing,
        slice_spacing=options.slice_spacing,
        slice_thickness=options.slice_thickness,
    )
    grid = grid_of(region, (*options.across, options.middle))
    return image_body(body, grid, rng, scanner=subject.scanner, workers=workers)


def procedural_body(patient: Patient, rng: np.random.Generator) -> ProceduralBody:
    """Build the body of a patient from formulas."""
    patient = pathology.restrict(patient, set(_NAMES.values()))
    # Its marrow has no lesions and its bones no fractures.
    patient = replace(patient, lesions=(), fractures=())
    names = _NAMES | dict(enumerate(metal.metal_names(patient), start=max(_NAMES) + 1))
    return ProceduralBody(patient=patient, build=organs.draw_build(rng, patient), names=names)


def femur_landmarks(side: str) -> Femur:
    """Return where the procedural femur's head, neck and shaft are, unscaled, mm."""
    sign = 1.0 if side == "left" else -1.0
    return Femur(
        head=(90.0 * sign, 0.0, 0.0),
        radius=24.0,
        root=(131.0 * sign, 10.0, -38.0),
        shaft=(122.0 * sign, 7.5, -140.0),
    )


def _axial_bones(x: Floats, y: Floats, level: Floats) -> list[tuple[int, Floats]]:
    z = level.item()
    canal = bones.spinal_canal(x, y)
    found: list[tuple[int, Floats]] = []
    if z > bones.VERTEBRAE[0] - 25:
        nearest = bones.nearest_vertebra(z)
        for vertebra in range(max(0, nearest - 1), min(nearest + 2, len(bones.VERTEBRAE))):
            arch = np.maximum(bones.vertebral_arch(x, y, level, vertebra), -canal)
            body = bones.vertebral_body(x, y, level, vertebra)
            found.append((_CODES[_LEVELS[vertebra]], np.minimum(arch, body)))
    half_width, half_depth = organs.trunk(z)
    if z > 180:
        for rib, distance in bones.ribs(x, y, level, half_width - 38, half_depth - 22):
            for side, sign in (("left", 1), ("right", -1)):
                here = np.where(x * sign > 0, distance, np.float32(1e3))
                found.append((_CODES[f"rib_{side}_{rib}"], here))
    if z > 330:
        found.append((_CODES["sternum"], bones.sternum(x, y, level, 5 - half_depth + 30)))
    if z < 190:
        found.append((_CODES["sacrum"], np.maximum(bones.sacrum(x, y, level), -canal)))
    return found


def _paint_spinal_column(
    tissues: NDArray[np.uint8], structures: NDArray[np.uint8], x: Floats, y: Floats, z: float
) -> None:
    if z <= bones.VERTEBRAE[0] - 25:
        return
    disc = np.hypot(x / 25, (y - bones.SPINE_Y) / 18) < 1
    tissues[disc], structures[disc] = Tissue.DISC, _CODES["intervertebral_discs"]
    canal = bones.spinal_canal(x, y) < 0
    tissues[canal], structures[canal] = Tissue.CANAL, _CODES["spinal_canal"]


def _kinds() -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    for code, name in _NAMES.items():
        if name in _LEVELS:
            table[code] = Tissue.SPINE
        elif name.startswith("rib"):
            table[code] = Tissue.RIB
        elif name.startswith("femur"):
            table[code] = Tissue.LONG_BONE
        elif name.startswith(("hip_bone", "sacrum", "sternum")):
            table[code] = Tissue.FLAT_BONE
    return table


#: Structure code -> tissue of the bones.
_KINDS = _kinds()
