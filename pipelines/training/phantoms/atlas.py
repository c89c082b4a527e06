"""Label maps of real anatomy, made ready to be deformed: tissues, bones and depth below bone.

An atlas is a NIfTI label map and beside it a JSON table of the same name that names the labels:
`{"7": "aorta"}` or `{"labels": {"7": {"name": "aorta"}}}`.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms.tissues import FIRST_BONE, Tissue

# SimpleITK ships no types.
_sitk: Any = SimpleITK

#: Marks the arms in `Atlas.soft`, so that a phantom can be made without them.
ARM_BIT = 0x80
#: Millimetres per unit of `Atlas.depth`.
DEPTH_UNIT = 0.1
_SPACING = 1.5

#: The first pattern that is found in a label's name gives its tissue; no pattern: muscle.
_PATTERNS: tuple[tuple[str, Tissue], ...] = (
    (r"^(background|air)$", Tissue.AIR),
    (r"disc", Tissue.DISC),
    (r"cartilage", Tissue.CARTILAGE),
    (r"bronch|trachea|air_cavity", Tissue.GAS),
    (r"^lungs?(_|$)", Tissue.LUNG),
    (r"renal_pelvis|ureter|bladder", Tissue.URINE),
    (r"artery|vein|aorta|vena_cava|trunk$", Tissue.VESSEL),
    (r"spinal_c", Tissue.CANAL),
    (r"muscle", Tissue.MUSCLE),
    (r"liver", Tissue.LIVER),
    (r"spleen", Tissue.SPLEEN),
    (r"kidney", Tissue.KIDNEY),
    (r"heart", Tissue.HEART),
    (r"brain", Tissue.BRAIN),
    (r"stomach|duodenum|colon|ileum|bowel|rectum|esophagus", Tissue.BOWEL),
    (r"pancreas|gland|prostate", Tissue.SOFT),
    (r"subcutaneous|internal_soft_tissue", Tissue.FAT),
    (r"^[CTL]\d+$|cervical|thoracic|lumbar", Tissue.SPINE),
    (r"^rib", Tissue.RIB),
    (r"skull", Tissue.SKULL),
    (r"^(femur|humerus|radius|ulna|clavicle)", Tissue.LONG_BONE),
    (r"^(sacrum|coccyx|pelvis|hip_bone|scapula|sternum|skeleton)", Tissue.FLAT_BONE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Atlas:
    """One body. All volumes share one isotropic grid, affine LPS in mm."""

    name: str
    soft: hd.Volume  #: uint8 `Tissue` as if there were no bone, with `ARM_BIT`
    family: hd.Volume  #: uint8 `Tissue` of the bone here or one voxel away, else 0
    depth: hd.Volume  #: int8, `DEPTH_UNIT` mm below the bone surface, negative outside of bone


def load_atlas(path: Path) -> Atlas:
    """Read a label map and its table of names.

    Parameters
    ----------
    path
        The NIfTI file; its table is the file of the same name that ends in `.json`.
    """
    table = json.loads(path.with_name(path.name.split(".")[0] + ".json").read_text("utf-8"))
    image = _sitk.ReadImage(str(path))
    tissues = _to_tissues(_sitk.GetArrayFromImage(image), _names(table))
    if not np.isin(Tissue.FAT, tissues) and not _has_body(table):
        tissues = _wrap_in_fat(tissues, image.GetSpacing()[0])
    return _build(path.name.split(".")[0], tissues, image)


def tissue_of(name: str) -> Tissue:
    """Return the tissue that a label's name speaks of."""
    for pattern, tissue in _PATTERNS:
        if re.search(pattern, name, re.IGNORECASE):
            return tissue
    return Tissue.MUSCLE


def _names(table: dict[str, Any]) -> dict[int, str]:
    labels = table.get("labels", table)
    return {
        int(value): entry["name"] if isinstance(entry, dict) else entry
        for value, entry in labels.items()
    } | {0: "background"}


def _has_body(table: dict[str, Any]) -> bool:
    return "body" in _names(table).values()


def _to_tissues(labels: NDArray[np.integer[Any]], names: dict[int, str]) -> NDArray[np.uint8]:
    lut = np.full(max(int(labels.max()), *names) + 1, Tissue.MUSCLE, np.uint8)
    for value, name in names.items():
        lut[value] = tissue_of(name)
    tissues = np.asarray(lut[labels])
    for plane in tissues:  # what the skull encloses
        skull = plane == Tissue.SKULL
        if skull.any():
            plane[ndimage.binary_fill_holes(skull) & (plane == Tissue.FAT)] = Tissue.BRAIN
    return tissues


def _wrap_in_fat(
    tissues: NDArray[np.uint8], pixel: float, reach: float = 30.0, fat: float = 16.0
) -> NDArray[np.uint8]:
    """Fill the gaps between labelled organs with fat and add subcutaneous fat, slice by slice."""
    wrapped = tissues.copy()
    pad = int(reach / pixel) + 2
    for plane in wrapped:
        if not plane.any():
            continue
        near = np.pad(ndimage.distance_transform_edt(plane == 0) * pixel < reach, pad)
        grown = ndimage.binary_fill_holes(np.pad(plane > 0, pad) | near)
        inner = ndimage.distance_transform_edt(grown) * pixel > reach - fat
        inner = inner[pad:-pad, pad:-pad]
        plane[inner & (plane == 0)] = Tissue.FAT
    return wrapped


def _build(name: str, tissues: NDArray[np.uint8], image: Any) -> Atlas:
    bone = _like((tissues >= FIRST_BONE).astype(np.uint8), image)
    depth = -_sitk.SignedMaurerDistanceMap(bone, squaredDistance=False, useImageSpacing=True)
    # The filter's zero is the centres of the outermost bone voxels; the surface is further out.
    depth = depth + 0.5 * min(image.GetSpacing())
    depth = _sitk.SmoothingRecursiveGaussian(depth, 0.6 * _SPACING)
    depth = _sitk.Clamp(depth / DEPTH_UNIT, _sitk.sitkInt8, -127, 127)

    soft = tissues.copy()
    soft[tissues >= FIRST_BONE] = Tissue.MUSCLE
    rim = (tissues == Tissue.FAT) & ndimage.binary_dilation(tissues == Tissue.AIR)
    soft[rim] = Tissue.SKIN
    for plane in soft:
        plane[_arms(plane, image.GetSpacing()[0])] |= ARM_BIT
    family = ndimage.grey_dilation(np.where(tissues >= FIRST_BONE, tissues, 0), size=(3, 3, 3))

    return Atlas(
        name=name,
        soft=_isotropic(_like(soft, image), _sitk.sitkNearestNeighbor),
        family=_isotropic(_like(family, image), _sitk.sitkNearestNeighbor),
        depth=_isotropic(depth, _sitk.sitkLinear),
    )


def _arms(plane: NDArray[np.uint8], pixel: float) -> NDArray[np.bool_]:
    """Return parts of an axial slice that lie apart from the trunk, to its sides."""
    parts, count = ndimage.label(plane != Tissue.AIR)
    arms = np.zeros(plane.shape, bool)
    if count < 2:
        return arms
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    centres = ndimage.center_of_mass(parts > 0, parts, range(1, count + 1))
    middle = centres[int(np.argmax(sizes))][1]
    for number, (size, centre) in enumerate(zip(sizes, centres, strict=True), start=1):
        if size < 0.3 * sizes.max() and abs(centre[1] - middle) * pixel > 100:
            arms |= parts == number
    return arms


def _like(array: NDArray[Any], image: Any) -> Any:
    made = _sitk.GetImageFromArray(array)
    made.CopyInformation(image)
    return made


def _isotropic(image: Any, interpolator: int) -> hd.Volume:
    size, spacing = np.asarray(image.GetSize()), np.asarray(image.GetSpacing())
    if not np.allclose(spacing, _SPACING):
        image = _sitk.Resample(
            image,
            [int(n) for n in np.ceil(size * spacing / _SPACING)],
            _sitk.Transform(),
            interpolator,
            image.GetOrigin(),
            [_SPACING] * 3,
            image.GetDirection(),
            -127 if image.GetPixelID() == _sitk.sitkInt8 else 0,
        )
    volume = hd.Volume.from_simpleitk(image, coordinate_system="PATIENT")
    volume = volume.permute_spatial_axes([2, 1, 0])
    return volume.with_array(np.ascontiguousarray(volume.array))
