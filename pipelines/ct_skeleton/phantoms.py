"""Which phantoms the skeleton pipeline is trained on, and which it is evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import highdicom as hd
import numpy as np

from pipelines.ct_skeleton.pipeline import PIXEL_SPACING
from pipelines.training.case import UNKNOWN
from pipelines.training.phantoms.atlas import Atlas, load_atlas
from pipelines.training.phantoms.labels import SKELETON_INTERIOR
from pipelines.training.phantoms.limbs import limb_slice
from pipelines.training.phantoms.procedural import ProceduralOptions, procedural_phantom
from pipelines.training.phantoms.render import ImagedRegion, anatomical_phantom
from pipelines.training.phantoms.tissues import Phantom, Tissue, skeleton_of, structure_of
from pipelines.training.stream import Render

#: Atlases by file name -> how often each is drawn in training.
TRAINING_ATLASES = {"bp3d_body_1p5mm.nii.gz": 0.65, "spl_abdomen.nii.gz": 0.35}
#: Another body, for evaluation only.
HELD_OUT_ATLAS = "xcat50_wholebody_2mm.nii.gz"

_SIZE = 256  # pixels of a training slice
_THICK_SHARE = 0.6  # slices from 2 mm
_HEADS = 2.5  # times as often as by their size
_PROCEDURAL_SHARE = 0.08  # beside the atlases: another shape of everything
_LIMB_SHARE = 0.08  # feet and hands, which no atlas has


def training_slices(folder: Path | None) -> Render:
    """Return what draws one-slice phantoms.

    Parameters
    ----------
    folder
        Folder of label maps, or None for procedural bodies.
    """
    if folder is None:
        return _procedural_slice
    atlases = [load_atlas(folder / name) for name in TRAINING_ATLASES]
    planes = [_with_more_heads(atlas, _plane_weights(atlas)) for atlas in atlases]
    return partial(_atlas_slice, atlases, planes, np.asarray(list(TRAINING_ATLASES.values())))


def _procedural_slice(rng: np.random.Generator) -> Phantom:
    options = ProceduralOptions(
        slices=1,
        rows=_SIZE,
        columns=_SIZE,
        pixel_spacing=PIXEL_SPACING,
        slice_spacing=float(rng.uniform(0.6, 6)),
        middle=float(rng.uniform(-150, 500)),
        across=(float(rng.normal(0, 80)), 15 + float(rng.normal(0, 30))),
        contrast=None,
    )
    return procedural_phantom(options, seed=int(rng.integers(2**62)))


def _atlas_slice(
    atlases: Sequence[Atlas],
    planes: Sequence[np.ndarray],
    weights: np.ndarray,
    rng: np.random.Generator,
) -> Phantom:
    kind = rng.random()
    if kind < _PROCEDURAL_SHARE:
        return _procedural_slice(rng)
    if kind < _PROCEDURAL_SHARE + _LIMB_SHARE:
        return limb_slice(rng, pixel_spacing=PIXEL_SPACING, size=_SIZE)
    which = int(rng.choice(len(atlases), p=weights))
    thick = rng.random() < _THICK_SHARE
    region = ImagedRegion(
        centre=_draw_centre(atlases[which], planes[which], rng),
        shape=(1, _SIZE, _SIZE),
        pixel_spacing=PIXEL_SPACING,
        slice_spacing=float(rng.uniform(2, 6) if thick else rng.uniform(0.6, 2)),
    )
    return anatomical_phantom(atlases[which], region, seed=int(rng.integers(2**62)))


def _plane_weights(atlas: Atlas) -> np.ndarray:
    """Return how often each plane is drawn: ribs and pelvis more often than the femoral shaft."""
    count = np.count_nonzero(atlas.bone.array, axis=(1, 2)).astype(float)
    if atlas.femur is not None:
        first = round(
            float(
                atlas.soft.map_reference_to_indices(
                    atlas.femur.map_indices_to_reference(np.zeros((1, 3)))
                )[0, 0]
            )
        )
        part = np.count_nonzero(atlas.femur.array, axis=(1, 2))
        count[first : first + len(part)] += part
    weights = np.sqrt(count)
    return np.asarray(weights / weights.sum())


def _with_more_heads(atlas: Atlas, planes: np.ndarray) -> np.ndarray:
    """Draw heads more often: no bones are as intricate, and only one body has any."""
    skulls = np.flatnonzero(atlas.tissues == Tissue.SKULL)
    heads = np.isin(atlas.bone.array, skulls).any(axis=(1, 2))
    weights = np.where(heads, _HEADS * planes, planes)
    return np.asarray(weights / weights.sum())


def _draw_centre(
    atlas: Atlas, planes: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Draw a point near the trunk, head or legs."""
    plane = int(rng.choice(len(planes), p=planes))
    _, _, z = (atlas.soft.affine @ (plane, 0, 0, 1))[:3]
    level = int(
        np.clip(
            round(atlas.skin.map_reference_to_indices(np.asarray([[0, 0, z]]))[0, 0]),
            0,
            atlas.skin.shape[0] - 1,
        )
    )
    found = np.argwhere(atlas.skin.array[level] > 15)
    if found.size == 0:
        x, y, _ = atlas.soft.center_position
        return float(x), float(y), float(z)
    row, column = found[rng.integers(len(found))]
    x, y, _ = (atlas.skin.affine @ (level, row, column, 1))[:3]
    return float(x), float(y), float(z)


def held_out_studies(folder: Path | None) -> Callable[[int], Phantom]:
    """Return what makes a phantom study of a seed, of a body that is not in training.

    Parameters
    ----------
    folder
        Folder of label maps, or None for procedural bodies of other seeds.
    """
    if folder is None:
        return _procedural_study
    atlas = load_atlas(folder / HELD_OUT_ATLAS)
    return partial(_atlas_study, atlas, _plane_weights(atlas))


def judged_truth(phantom: Phantom) -> hd.Volume:
    """Return the truth of a study: the skeleton, and `UNKNOWN` where its label map is filled, bone or not.

    Returns
    -------
    highdicom.Volume
        uint8: 1 bone, 0 none, `UNKNOWN`; on the phantom's grid.
    """
    labels = skeleton_of(phantom.tissues)
    filled = structure_of(phantom, SKELETON_INTERIOR).array > 0
    return labels.with_array(np.where(filled, np.uint8(UNKNOWN), labels.array))


def _procedural_study(seed: int) -> Phantom:
    middle = float(np.random.default_rng(seed).uniform(-50, 450))
    return procedural_phantom(ProceduralOptions(middle=middle, contrast=None), seed=seed)


def _atlas_study(atlas: Atlas, planes: np.ndarray, seed: int) -> Phantom:
    rng = np.random.default_rng(seed)
    x, y, _ = atlas.soft.center_position
    _, _, height = _draw_centre(atlas, planes, rng)
    region = ImagedRegion(
        centre=(x, y, height),
        shape=(40, 400, 480),
        pixel_spacing=float(rng.uniform(0.85, 1.05)),
        slice_spacing=float(rng.uniform(1.5, 5)),
    )
    return anatomical_phantom(atlas, region, seed=seed)
