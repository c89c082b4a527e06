"""A body of real anatomy made ready to be posed: structures, bones, depths below surfaces."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms.boxes import bounding_box
from pipelines.training.phantoms.femora import Femur, find_femur
from pipelines.training.phantoms.images import LINEAR, NEAREST, image_like, resampled, to_volume
from pipelines.training.phantoms.labels import LabelMap, read_label_map
from pipelines.training.phantoms.names import tissue_of
from pipelines.training.phantoms.surfaces import bone_depth, skin_depth
from pipelines.training.phantoms.tissues import FIRST_BONE, Tissue

Codes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Point = tuple[float, float, float]

_SPACING = 1.5  # mm
#: A femur ends in a cut if so much of its last slice goes on as another bone; so far away a cut is not felt, mm.
_FACE_SHARE, _END_MM = 0.5, 24.0
_SIDES = ("left", "right")


@dataclass(frozen=True, slots=True, kw_only=True)
class Atlas:
    """One body. All volumes have an affine in LPS, mm; those of a kind share a grid."""

    name: str
    names: Mapping[int, str]  #: structure code -> name
    tissues: Codes  #: `Tissue` by structure code, shape (256,)
    soft: hd.Volume  #: uint8 structure codes as if there were no bone
    bone: hd.Volume  #: uint8 structure code of the bone (femora apart) here or close by, else 0
    depth: hd.Volume  #: int8, `DEPTH_UNIT` mm below the surface of those bones
    skin: hd.Volume  #: int8, mm below the skin of trunk and legs, coarser; negative outside
    femur: hd.Volume | None  #: uint8 structure code of the femur here or close by
    femur_depth: hd.Volume | None  #: int8, `DEPTH_UNIT` mm below the surface of the femora
    femora: Mapping[str, Femur]  #: `left`, `right` -> where it is
    centres: Mapping[str, Point]  #: bone -> its middle, mm; of a vertebra: of its body


def load_atlas(path: Path, complete: Callable[[LabelMap], LabelMap] | None = None) -> Atlas:
    """Read a label map and its table of names, and measure how deep its points lie.

    Parameters
    ----------
    path
        The NIfTI file; its table is the file of the same name that ends in `.json`.
    complete
        Adds structures that the label map lacks.
    """
    labels = read_label_map(path)
    if complete is not None:
        labels = complete(labels)
    is_bone = _tissues(labels)[labels.codes] >= FIRST_BONE
    femora = _femur_codes(labels)
    is_femur = np.isin(labels.codes, list(femora.values()))
    others = is_bone & ~is_femur
    above, below = _cut_ends(labels, femora, others)
    femur, femur_depth = _femur_volumes(labels, is_femur, below)
    skin, centres = skin_depth(labels), _centres(labels)
    near = _grown(np.where(others, labels.codes, 0))
    depth = bone_depth(others | above, labels.grid)
    landmarks = {side: _landmarks(labels, code, side) for side, code in femora.items()}
    labels, muscle = labels.with_name("soft_tissue")
    soft = np.where(is_bone, np.uint8(muscle), labels.codes)
    return Atlas(
        name=path.name.split(".")[0],
        names=labels.names,
        tissues=_tissues(labels),
        soft=_on_lattice(image_like(soft, labels.grid), NEAREST),
        bone=_on_lattice(image_like(near, labels.grid), NEAREST),
        depth=_on_lattice(depth, LINEAR),
        skin=skin,
        femur=femur,
        femur_depth=femur_depth,
        femora=landmarks,
        centres=centres,
    )


def _tissues(labels: LabelMap) -> Codes:
    tissues = np.zeros(256, np.uint8)
    for code, name in labels.names.items():
        tissues[code] = tissue_of(name)
    return tissues


def _femur_codes(labels: LabelMap) -> dict[str, int]:
    codes = {side: labels.code_of(f"femur_{side}") for side in _SIDES}
    return {side: code for side, code in codes.items() if code is not None}


def _cut_ends(labels: LabelMap, femora: Mapping[str, int], others: Mask) -> tuple[Mask, Mask]:
    """Find femora that are cut across, and go on below as another label: the cut is no surface of a bone.

    Returns
    -------
    tuple of numpy.ndarray
        The ends on either side of the cuts, bool, shape of the labels: of the femora, and of what goes on below.
    """
    above, below = np.zeros_like(others), np.zeros_like(others)
    reach = round(_END_MM / labels.grid.GetSpacing()[2])
    for code in femora.values():
        femur = labels.codes == code
        lowest = int(np.flatnonzero(femur.any(axis=(1, 2)))[0])
        face = femur[lowest]
        if lowest == 0 or others[lowest - 1][face].mean() < _FACE_SHARE:
            continue
        above[lowest : lowest + reach] |= femur[lowest : lowest + reach]
        first = max(0, lowest - reach)
        parts, _ = ndimage.label(others[first:lowest])
        below[first:lowest] |= np.isin(parts, np.unique(parts[-1][face & others[lowest - 1]]))
    return above, below


def _femur_volumes(
    labels: LabelMap, is_femur: Mask, below: Mask
) -> tuple[hd.Volume, hd.Volume] | tuple[None, None]:
    """Return code and depth of the femora, of the slices that hold them and some around."""
    planes = np.flatnonzero(is_femur.any(axis=(1, 2)))
    if planes.size == 0:
        return None, None
    slab = slice(max(0, planes[0] - 8), min(len(is_femur), planes[-1] + 9))
    grid = labels.grid[:, :, slab]
    near = _grown(np.where(is_femur[slab], labels.codes[slab], 0))
    return (
        _on_lattice(image_like(near, grid), NEAREST),
        _on_lattice(bone_depth((is_femur | below)[slab], grid), LINEAR),
    )


def _landmarks(labels: LabelMap, code: int, side: str) -> Femur:
    inside = (labels.codes == code).astype(np.uint8)
    return find_femur(_on_lattice(image_like(inside, labels.grid), NEAREST), side)


def _grown(codes: Codes) -> Codes:
    """Let codes grow by two voxels where there are none."""
    made = codes.copy()
    if codes.any():
        part = made[bounding_box(codes > 0, (2, 2, 2))]
        for _ in range(2):
            part[...] = np.where(part > 0, part, ndimage.grey_dilation(part, size=(3, 3, 3)))
    return made


def _centres(labels: LabelMap) -> dict[str, Point]:
    boxes = ndimage.find_objects(labels.codes)
    found: dict[str, Point] = {}
    for code, name in labels.names.items():
        if code > len(boxes) or boxes[code - 1] is None or tissue_of(name) < FIRST_BONE:
            continue
        box = boxes[code - 1]
        where = np.argwhere(labels.codes[box] == code).astype(np.float64)
        where += [part.start for part in box]
        if tissue_of(name) is Tissue.SPINE:  # the front is body, the rest is arch
            where = where[where[:, 1] <= np.quantile(where[:, 1], 0.6)]
        index = where.mean(axis=0)[::-1]
        found[name] = tuple(labels.grid.TransformContinuousIndexToPhysicalPoint(index.tolist()))
    return found


def _on_lattice(image: Any, interpolator: int) -> hd.Volume:
    return to_volume(resampled(image, interpolator, _SPACING))
