"""Reading a label map of real anatomy: one code a structure, sides told apart, nothing hollow.

A label map is a NIfTI file and beside it a JSON table of the same name that names the labels:
`{"7": "aorta"}` or `{"labels": {"7": {"name": "aorta"}}}`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms import fat
from pipelines.training.phantoms.boxes import bounding_box
from pipelines.training.phantoms.names import is_paired, normalise, sided, tissue_of
from pipelines.training.phantoms.splitting import split_femora
from pipelines.training.phantoms.tissues import FIRST_BONE, Tissue

# SimpleITK ships no types.
_sitk: Any = SimpleITK
Codes = NDArray[np.uint8]

_MARGIN_MM = 45.0  # around the body, for fat to be added in
#: What lies inside of a skull that is one solid label: nobody knows how much of it is bone.
SKELETON_INTERIOR = "skeleton_interior"
_FACE_MM = 60.0  # from the lowest slice of the brain down
#: No wall of a skull holds a ball of this radius; what does is the inside of a face, but for its walls.
_SOLID_MM, _WALL_MM = 7.0, 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMap:
    """The structures of a body."""

    codes: Codes  #: axes (slice, row, column): to the head, to the back, to the left; 0 is air
    names: Mapping[int, str]  #: code -> name
    grid: Any  #: a SimpleITK image on the same grid, LPS, mm

    def codes_of(self, tissue: Tissue) -> list[int]:
        """Return the codes of the structures that are made of a tissue."""
        return [code for code, name in self.names.items() if tissue_of(name) is tissue]

    def code_of(self, name: str) -> int | None:
        """Return the code of a structure, None if there is none of that name."""
        return next((code for code, known in self.names.items() if known == name), None)

    def with_name(self, name: str) -> tuple["LabelMap", int]:
        """Return the map with a code for a name, and that code: its own if it has one."""
        known = self.code_of(name)
        if known is not None:
            return self, known
        code = max(self.names, default=0) + 1
        return replace(self, names={**self.names, code: name}), code


def read_label_map(path: Path) -> LabelMap:
    """Read a label map and its table of names, and add what it lacks: sides, femora, brain, fat.

    Parameters
    ----------
    path
        The NIfTI file; its table is the file of the same name that ends in `.json`.
    """
    table = json.loads(path.with_name(path.name.split(".")[0] + ".json").read_text("utf-8"))
    image = _sitk.DICOMOrient(_sitk.ReadImage(str(path)), "LPS")
    labels = _recoded(image, _names(table))
    labels = _with_sides(labels)
    labels = _with_femora(labels)
    labels = _with_interior(labels)
    labels = _with_brain(labels)
    return _with_fat(labels)


def _names(table: dict[str, Any]) -> dict[int, str]:
    labels = table.get("labels", table)
    return {
        int(value): normalise(entry["name"] if isinstance(entry, dict) else entry)
        for value, entry in labels.items()
    }


def _recoded(image: Any, names: dict[int, str]) -> LabelMap:
    """Give equal names one code below 256, air 0, and make all margins equal."""
    labels = _sitk.GetArrayViewFromImage(image)
    present = np.unique(labels)
    known = sorted(
        {names.get(int(v), "muscle") for v in present if v}
        - {name for name in names.values() if tissue_of(name) is Tissue.AIR}
    )
    code = {name: number for number, name in enumerate(known, start=1)}
    lut = np.zeros(int(present.max()) + 1, np.uint8)
    for value in present[present > 0]:
        lut[value] = code.get(names.get(int(value), "muscle"), 0)
    codes = lut[labels]
    box = bounding_box(codes > 0)
    start = [part.start for part in box][::-1]
    size = [part.stop - part.start for part in box][::-1]
    grid = _sitk.RegionOfInterest(image, size, start)
    across = [int(np.ceil(_MARGIN_MM / spacing)) for spacing in grid.GetSpacing()[:2]]
    pad = [*across, 0]
    return LabelMap(
        codes=np.pad(codes[box], [(n, n) for n in pad[::-1]]),
        names={number: name for name, number in code.items()},
        grid=_sitk.ConstantPad(grid, pad, pad, 0),
    )


def _with_sides(labels: LabelMap) -> LabelMap:
    """Part labels that are one for both sides, at the middle of the spine."""
    inside = np.flatnonzero((labels.codes > 0).any(axis=(0, 1)))
    spine = labels.codes_of(Tissue.SPINE)
    columns = np.flatnonzero(np.isin(labels.codes, spine).any(axis=(0, 1))) if spine else inside
    middle = int((columns[0] + columns[-1] + 1) // 2)
    for code, name in list(labels.names.items()):
        if not is_paired(name):
            continue
        others = {known: one for known, one in labels.names.items() if known != code}
        labels = replace(labels, names=others)
        for side, half in (("left", np.s_[..., middle:]), ("right", np.s_[..., :middle])):
            labels, new = labels.with_name(sided(name, side))
            part = labels.codes[half]
            part[part == code] = new
    return labels


def _with_femora(labels: LabelMap) -> LabelMap:
    """Part the femora off a skeleton that is one label."""
    skeleton = labels.code_of("skeleton")
    if skeleton is None or labels.code_of("femur_left") is not None:
        return labels
    femora = split_femora(labels.codes == skeleton, float(labels.grid.GetSpacing()[2]))
    for side, femur in zip(("left", "right"), femora or (), strict=False):
        labels, new = labels.with_name(f"femur_{side}")
        labels.codes[femur] = new
    return labels


def _with_interior(labels: LabelMap) -> LabelMap:
    """Name what is inside of a face that is filled: nasal cavity and sinuses, of which a surface shows nothing."""
    skeleton, brain = labels.code_of("skeleton"), labels.code_of("brain")
    if skeleton is None or brain is None:
        return labels
    spacing = float(labels.grid.GetSpacing()[2])
    lowest = int(np.flatnonzero((labels.codes == brain).any(axis=(1, 2)))[0])
    head = labels.codes[max(0, lowest - round(_FACE_MM / spacing)) :]
    depth = ndimage.distance_transform_edt(head == skeleton) * spacing
    solid = ndimage.distance_transform_edt(depth <= _SOLID_MM) * spacing <= _SOLID_MM
    parts, count = ndimage.label(solid & (depth > _WALL_MM))
    if count == 0:
        return labels
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    labels, interior = labels.with_name(SKELETON_INTERIOR)
    head[parts == sizes.argmax()] = interior
    return labels


def _with_brain(labels: LabelMap) -> LabelMap:
    """Fill a skull that has no brain: what is fat inside it becomes one."""
    skull = labels.codes_of(Tissue.SKULL)
    if not skull or labels.code_of("brain") is not None:
        return labels
    labels, brain = labels.with_name("brain")
    loose = labels.codes_of(Tissue.FAT)
    for plane in labels.codes:
        bone = plane == skull[0]
        if bone.any():
            plane[ndimage.binary_fill_holes(bone) & np.isin(plane, loose)] = brain
    return labels


def _with_fat(labels: LabelMap) -> LabelMap:
    """Add the fat of a body that has none."""
    if labels.codes_of(Tissue.FAT):
        return labels
    labels, code = labels.with_name("fat")
    pixel = float(labels.grid.GetSpacing()[0])
    body = labels.code_of("soft_tissue")
    if body is None:
        fat.wrap(labels.codes, code, pixel)
    else:
        bones = [c for c, name in labels.names.items() if tissue_of(name) >= FIRST_BONE]
        fat.marble(labels.codes, body, bones, code, pixel)
    return labels
