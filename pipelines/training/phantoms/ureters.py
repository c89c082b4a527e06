"""Renal pelves and ureters: added where a label map has none, and full in some places only, as patients' are."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms.atlas import Atlas
from pipelines.training.phantoms.labels import LabelMap
from pipelines.training.phantoms.tissues import Tissue

Points = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SIDES = ("left", "right")
#: A ureter comes in parts, for urine travels down it in boluses.
_PARTS = 3
_PELVIS_MM, _URETER_MM = 8.0, 3.0
#: It lies on the psoas, enters the pelvis before the sacroiliac joint, and comes to the bladder from behind.
_ON_PSOAS_MM, _ENTERS_MM, _BULGE_MM = 3.5, 15.0, 14.0
_FILLED = 0.5  # of the parts of patients' ureters


def add_ureters(labels: LabelMap) -> LabelMap:
    """Return the map with a renal pelvis and a ureter on each side that has kidney and psoas, if there is a bladder.

    After Gray's Anatomy (41st ed., ch. 74). A renal pelvis takes the place of kidney and fat, a ureter of fat alone.
    """
    codes, spacing = labels.codes.copy(), np.asarray(labels.grid.GetSpacing()[::-1])
    found = {name: _mask(labels, name) for name in ("urinary_bladder", "sacrum")}
    bladder, sacrum = found["urinary_bladder"], found["sacrum"]
    fat = np.isin(codes, labels.codes_of(Tissue.FAT))
    for side in _SIDES:
        kidney, psoas = _mask(labels, f"kidney_{side}"), _mask(labels, f"psoas_major_{side}")
        if bladder is None or sacrum is None or kidney is None or psoas is None:
            continue
        path = _path(kidney, psoas, bladder, sacrum, spacing)
        labels, pelvis = labels.with_name(f"renal_pelvis_{side}")
        for part, points in enumerate(np.array_split(path, _PARTS), start=1):
            labels, ureter = labels.with_name(f"ureter_{side}_{part}")
            codes[_tube(points, codes.shape, spacing, _URETER_MM) & fat] = ureter
        hilum = _tube(path[:1], codes.shape, spacing, _PELVIS_MM)
        codes[hilum & (fat | kidney)] = pelvis
    return replace(labels, codes=codes)


def part_ureters(labels: LabelMap) -> LabelMap:
    """Return the map with each whole ureter in parts of equal height, named from above as those of `add_ureters`."""
    codes = labels.codes.copy()
    for side in _SIDES:
        whole = _mask(labels, f"ureter_{side}")
        if whole is None:
            continue
        heights = np.flatnonzero(whole.any(axis=(1, 2)))[::-1]
        for number, slices in enumerate(np.array_split(heights, _PARTS), start=1):
            labels, part = labels.with_name(f"ureter_{side}_{number}")
            codes[slices] = np.where(whole[slices], part, codes[slices])
    return replace(labels, codes=codes)


def draw_ureters(rng: np.random.Generator, atlas: Atlas) -> Atlas:
    """Return the atlas with some parts of its ureters full of urine, the others empty; as it is if it has no parts."""
    parts = [
        code
        for code, name in atlas.names.items()
        if name.startswith("ureter_") and name[-1].isdigit()
    ]
    if not parts:
        return atlas
    tissues = atlas.tissues.copy()
    filled = rng.random(len(parts)) < _FILLED
    tissues[parts] = np.where(filled, Tissue.URINE, Tissue.MUSCLE)
    return replace(atlas, tissues=tissues)


def _mask(labels: LabelMap, name: str) -> Mask | None:
    code = labels.code_of(name)
    found = None if code is None else labels.codes == code
    return found if found is not None and found.any() else None


def _path(kidney: Mask, psoas: Mask, bladder: Mask, sacrum: Mask, spacing: Points) -> Points:
    """Return the middle of a ureter from above, 1 mm apart, shape (n, 3), mm from the first voxel: z, y, x."""
    renal, muscle, vesical = (np.argwhere(one) * spacing for one in (kidney, psoas, bladder))
    middle = float(vesical[:, 2].mean())
    outwards = np.sign(renal[:, 2].mean() - middle)
    height = float(renal[:, 0].mean())
    level = renal[np.abs(renal[:, 0] - height) < spacing[0]]
    nodes = [(height, level[:, 1].mean(), level[np.argmin(outwards * level[:, 2]), 2])]
    enters = float(np.argwhere(sacrum)[:, 0].max() * spacing[0]) - _ENTERS_MM
    for z in np.arange(height - 25, enters, -10.0):
        slab = muscle[np.abs(muscle[:, 0] - z) < spacing[0]]
        if not len(slab):
            continue
        x = slab[:, 2].mean() - outwards * 0.3 * np.ptp(slab[:, 2])
        front = slab[np.abs(slab[:, 2] - x) < 2 * spacing[2], 1]
        nodes.append((z, front.min() - _ON_PSOAS_MM, x))
    low = vesical[vesical[:, 0] < np.quantile(vesical[:, 0], 0.6)]
    end = (float(low[:, 0].mean()), low[:, 1].max(), middle + outwards * 0.35 * np.ptp(low[:, 2]))
    begin = np.asarray(nodes[-1])
    half = (begin + np.asarray(end)) / 2 + np.array([0, _BULGE_MM, outwards * _BULGE_MM])
    line = np.asarray([*nodes, tuple(half), end], np.float64)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.arange(0, along[-1], 1.0)
    dense = np.stack([np.interp(at, along, part) for part in line.T], axis=1)
    return np.asarray(ndimage.gaussian_filter1d(dense, 8.0, axis=0, mode="nearest"))


def _tube(points: Points, shape: tuple[int, ...], spacing: Points, radius: float) -> Mask:
    """Return what is within a radius, mm, of a line."""
    made = np.zeros(shape, bool)
    margin = np.ceil(radius / spacing).astype(int) + 1
    first = np.maximum(np.floor(points.min(axis=0) / spacing).astype(int) - margin, 0)
    last = np.ceil(points.max(axis=0) / spacing).astype(int) + margin + 1
    window = tuple(slice(*ends) for ends in zip(first, last, strict=True))
    away = np.ones(made[window].shape, bool)
    index = np.rint(points / spacing).astype(int) - first
    away[tuple(np.clip(index, 0, np.asarray(away.shape) - 1).T)] = False
    made[window] = ndimage.distance_transform_edt(away, sampling=spacing) <= radius
    return made
