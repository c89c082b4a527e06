"""Muscles that the label maps of real anatomy lack, derived from what they have.

- Rectus abdominis, one label for both sides, is parted at the spine's middle.
- Erector spinae that holds the deep muscles too is parted: what lies nearest to the spinous processes is
  transversospinalis (multifidus in the loin).
- External oblique that is drawn to the midline, over where a rectus abdominis would be, is parted at the semilunar
  line: what lies in front of it is aponeurosis, and no muscle.
- Latissimus dorsi, which no label map has, becomes a sheet behind and beside the trunk's lean tissue.

What is derived is ours and no anatomist's: figures about it say how well a rule is learned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms.boxes import bounding_box
from pipelines.training.phantoms.labels import LabelMap
from pipelines.training.phantoms.tissues import Tissue

Codes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_SIDES = ("left", "right")
#: From the midline and from the bone of the arch, mm: within both is transversospinalis.
_MEDIAL_MM, _DEEP_MM = 24.0, 15.0
#: Where external oblique ends in front, as a share of the way from the midline to its side: as in the SPL atlas.
_SEMILUNAR_LINE = 0.5
_SHEET_MM = 6.5
#: Hollows of the trunk's lean outline narrower than twice this are bridged by the sheet, mm.
_BRIDGED_MM = 18.0
#: Of skin and fat over the sheet that must be left, mm.
_COVER_MM = 3.0
#: Level -> from where to where latissimus dorsi reaches, degrees from straight back (ours).
_REACH = {"T6": (25.0, 105.0), "T9": (22.0, 95.0), "T12": (20.0, 72.0), "L2": (22.0, 48.0)}
_HIGHEST, _LOWEST = "T4", "L3"


def complete_muscles(labels: LabelMap) -> LabelMap:
    """Return a label map with the trunk's sixteen muscles as far as they can be derived.

    Parameters
    ----------
    labels
        From `read_label_map`; its codes may be changed in place.
    """
    labels = _part_rectus(labels)
    labels = _part_deep_muscles(labels)
    labels = _part_aponeurosis(labels)
    return _add_latissimus(labels)


def _part_rectus(labels: LabelMap) -> LabelMap:
    code = labels.code_of("rectus_abdominis")
    if code is None:
        return labels
    column = round(float(np.mean([column for _, column in _spine_middles(labels).values()])))
    names = {known: name for known, name in labels.names.items() if known != code}
    labels = replace(labels, names=names)
    for side, half in zip(_SIDES, (np.s_[..., column:], np.s_[..., :column]), strict=True):
        labels, new = labels.with_name(f"rectus_abdominis_{side}")
        part = labels.codes[half]
        part[part == code] = new
    return labels


def _part_deep_muscles(labels: LabelMap) -> LabelMap:
    """Part transversospinalis off an erector spinae that includes it."""
    if labels.code_of("transversospinalis_left") is not None:
        return labels
    spine = labels.codes_of(Tissue.SPINE)
    middles = _spine_middles(labels)
    across, down = float(labels.grid.GetSpacing()[0]), float(labels.grid.GetSpacing()[1])
    for side in _SIDES:
        whole = labels.code_of(f"erector_spinae_{side}")
        if whole is None:
            continue
        labels, deep = labels.with_name(f"transversospinalis_{side}")
        for index, (_, column) in middles.items():
            plane = labels.codes[index]
            muscle = plane == whole
            bone = np.isin(plane, spine)
            if not (muscle.any() and bone.any()):
                continue
            away = ndimage.distance_transform_edt(~bone, sampling=(down, across))
            beside = np.abs(np.arange(plane.shape[1]) - column) * across
            plane[muscle & (away < _DEEP_MM) & (beside < _MEDIAL_MM)] = deep
    return labels


def _part_aponeurosis(labels: LabelMap) -> LabelMap:
    if labels.code_of("rectus_abdominis_left") is not None:
        return labels
    middles = _spine_middles(labels)
    for side in _SIDES:
        whole = labels.code_of(f"external_oblique_{side}")
        if whole is None:
            continue
        labels, aponeurosis = labels.with_name(f"external_oblique_aponeurosis_{side}")
        for index, (row, column) in middles.items():
            plane = labels.codes[index]
            muscle = plane == whole
            if not muscle.any():
                continue
            beside = np.abs(np.arange(plane.shape[1]) - column)
            within = beside < _SEMILUNAR_LINE * beside[muscle.any(axis=0)].max()
            front = np.arange(plane.shape[0]) < row
            plane[muscle & front[:, None] & within] = aponeurosis
    return labels


def _add_latissimus(labels: LabelMap) -> LabelMap:
    if labels.code_of("latissimus_dorsi_left") is not None:
        return labels
    heights = _level_planes(labels)
    if not heights:
        return labels
    labels, left = labels.with_name("latissimus_dorsi_left")
    labels, right = labels.with_name("latissimus_dorsi_right")
    middles, arms = _spine_middles(labels), _arm_codes(labels)
    for index in range(*heights):
        whole = labels.codes[index]
        lean = (whole > 0) & ~np.isin(whole, [*labels.codes_of(Tissue.FAT), *arms])
        if index not in middles or not lean.any():
            continue
        box = bounding_box(lean, (_margin(labels), _margin(labels)))
        row, column = (at - part.start for at, part in zip(middles[index], box, strict=True))
        plane = whole[box]
        sheet = _sheet(labels, plane, lean[box], (row, column), _reach(labels, index))
        beside = np.arange(sheet.shape[1])[None, :] > column
        plane[sheet & beside], plane[sheet & ~beside] = left, right
    return labels


def _sheet(
    labels: LabelMap,
    plane: Codes,
    lean: Mask,
    middle: tuple[float, float],
    reach: tuple[float, float],
) -> Mask:
    """Return the layer around the lean trunk of a plane, where there is fat now and the angle is right."""
    across, down = float(labels.grid.GetSpacing()[0]), float(labels.grid.GetSpacing()[1])
    outside = ndimage.distance_transform_edt(~lean, sampling=(down, across))
    deep = ndimage.distance_transform_edt(outside < _BRIDGED_MM, sampling=(down, across))
    hull = ndimage.binary_fill_holes((deep >= _BRIDGED_MM) | lean)
    beyond = ndimage.distance_transform_edt(~hull, sampling=(down, across))
    inner = ndimage.distance_transform_edt(plane > 0, sampling=(down, across)) > _COVER_MM
    y, x = np.ogrid[: plane.shape[0], : plane.shape[1]]
    angle = np.degrees(np.arctan2(np.abs(x - middle[1]) * across, (y - middle[0]) * down))
    within = (angle > reach[0]) & (angle < reach[1])
    fat = np.isin(plane, labels.codes_of(Tissue.FAT))
    return np.asarray(fat & inner & within & (beyond > 0) & (beyond < _SHEET_MM))


def _margin(labels: LabelMap) -> int:
    """Pixels around the lean trunk in which distances are right."""
    return int(_BRIDGED_MM / float(labels.grid.GetSpacing()[0])) + 2


def _arm_codes(labels: LabelMap) -> list[int]:
    arms = re.compile(r"^(humerus|radius|ulna|upper_arm|forearm|hand|deltoid)_")
    return [code for code, name in labels.names.items() if arms.match(name)]


def _reach(labels: LabelMap, index: int) -> tuple[float, float]:
    """Return first and last angle of the sheet at a plane, between those of the levels there are."""
    known = [(plane, _REACH[name]) for name, plane in _level_middles(labels) if name in _REACH]
    known.sort()
    planes = [plane for plane, _ in known]
    first, last = (
        float(np.interp(index, planes, [reach[end] for _, reach in known])) for end in (0, 1)
    )
    return first, last


def _level_planes(labels: LabelMap) -> tuple[int, int] | None:
    """Return the planes between which latissimus dorsi is, as far as the atlas goes."""
    middles = dict(_level_middles(labels))
    if not any(name in middles for name in _REACH):
        return None
    lowest = middles.get(_LOWEST, 0)
    highest = middles.get(_HIGHEST, int(labels.codes.shape[0]))
    return lowest, highest


def _level_middles(labels: LabelMap) -> Sequence[tuple[str, int]]:
    boxes = ndimage.find_objects(labels.codes)
    return [
        (name, (boxes[code - 1][0].start + boxes[code - 1][0].stop) // 2)
        for code, name in labels.names.items()
        if re.fullmatch(r"[CTL]\d+", name) and code <= len(boxes) and boxes[code - 1] is not None
    ]


def _spine_middles(labels: LabelMap) -> dict[int, tuple[float, float]]:
    """Plane -> row and column of the middle of what it shows of vertebrae."""
    spine = np.zeros(256, bool)
    spine[labels.codes_of(Tissue.SPINE)] = True
    found: dict[int, tuple[float, float]] = {}
    for index, plane in enumerate(labels.codes):
        vertebra = spine[plane]
        if vertebra.any():
            rows, columns = bounding_box(vertebra)
            found[index] = (rows.start + rows.stop - 1) / 2, (columns.start + columns.stop - 1) / 2
    return found
