"""Muscle between the muscles of the back and the spine, where a label map draws thin ones in a bed of fat."""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms.atlas import Atlas
from pipelines.training.phantoms.boxes import bounding_box
from pipelines.training.phantoms.labels import LabelMap
from pipelines.training.phantoms.tissues import Tissue

Codes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

#: What is added: next to vertebrae, and farther away.
DEEP, OUTER = "paraspinal_muscle_deep", "paraspinal_muscle"
_VERTEBRA = re.compile(r"[CTL]\d+")
_BACK = re.compile(
    r"[CTL]\d+|rib_|(erector_spinae|transversospinalis|splenius|levatores_costarum|serratus_posterior|rhomboid|trapezius)_"
)
_FLANK = re.compile(r"[CTL]\d+|disc|(psoas_major|quadratus_lumborum)_")
#: Half the width of the widest gap that is muscle: behind the spine, and between its bodies and the psoas.
_BACK_MM, _FLANK_MM = 30.0, 6.0
_DEEP_MM = 5.0
#: How often both are fat, as in backs that have wasted; how often the deep one alone is, where infiltration begins.
_WASTED, _WASTED_DEEP = 0.1, 0.15


def fill_paraspinal(labels: LabelMap) -> LabelMap:
    """Return the map with muscle in the narrow gaps between vertebrae, ribs, and the muscles of back and flank.

    Patients' multifidus, erector spinae and psoas lie against the bone and fill the space under the thoracolumbar
    fascia (Gray's Anatomy, 41st ed., ch. 43). Only fat gives way, and not what lies under the skin.
    """
    labels, deep = labels.with_name(DEEP)
    labels, outer = labels.with_name(OUTER)
    fat = [code for code in labels.codes_of(Tissue.FAT) if labels.names[code] != "subcutaneous"]
    vertebrae = _codes(labels, _VERTEBRA.fullmatch)
    back, flank = _codes(labels, _BACK.match), _codes(labels, _FLANK.match)
    canal = _codes(labels, "spinal_canal".__eq__) + _codes(labels, "spinal_cord".__eq__)
    pixel = float(labels.grid.GetSpacing()[0])
    made = labels.codes.copy()
    for plane in made:
        bone, hole = np.isin(plane, vertebrae), np.isin(plane, canal)
        if not bone.any() or not hole.any():
            continue
        behind = int(np.flatnonzero(hole.any(axis=1))[-1]) - 1
        space = _closed(np.isin(plane, back), _BACK_MM / pixel)
        # The foramina and what is around the sac are fat.
        space[:behind] = _closed(np.isin(plane, flank), _FLANK_MM / pixel)[:behind]
        space &= np.isin(plane, fat)
        near = ndimage.distance_transform_edt(~bone) * pixel <= _DEEP_MM
        plane[space] = np.where(near, deep, outer)[space]
    return replace(labels, codes=made)


def draw_paraspinal(rng: np.random.Generator, atlas: Atlas) -> Atlas:
    """Return the atlas with what was added as muscle or, in some patients, as fat; as it is if nothing was."""
    codes = {name: code for code, name in atlas.names.items()}
    if OUTER not in codes:
        return atlas
    draw, tissues = rng.random(), atlas.tissues.copy()
    if draw < _WASTED + _WASTED_DEEP:
        tissues[codes[DEEP]] = Tissue.FAT
    if draw < _WASTED:
        tissues[codes[OUTER]] = Tissue.FAT
    return replace(atlas, tissues=tissues)


def _codes(labels: LabelMap, is_one: Callable[[str], object]) -> list[int]:
    return [code for code, name in labels.names.items() if is_one(name)]


def _closed(mask: Mask, radius: float) -> Mask:
    """Close gaps of a plane that no disc of a radius, in pixels, fits into."""
    if not mask.any():
        return mask
    made, margin = mask.copy(), int(radius) + 2
    box = bounding_box(mask, (0, 0))
    part = np.pad(mask[box], margin)
    grown = ndimage.distance_transform_edt(~part) <= radius
    closed = ndimage.distance_transform_edt(grown) > radius
    made[box] |= closed[margin:-margin, margin:-margin]
    return made
