"""What an atlas's label map says that cannot be: a bone cut in two, a skull filled up to the nose."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk

from pipelines.ct_skeleton.phantoms import judged_truth
from pipelines.training.case import UNKNOWN
from pipelines.training.phantoms.atlas import load_atlas
from pipelines.training.phantoms.labels import SKELETON_INTERIOR, read_label_map
from pipelines.training.phantoms.render import ImagedRegion, Subject, anatomical_phantom
from pipelines.training.phantoms.surfaces import DEPTH_UNIT
from pipelines.training.phantoms.tissues import skeleton_of, structure_of

SPACING = 3.0


def written(labels: np.ndarray, names: Mapping[int, str], folder: Path) -> Path:
    """A label map of slices to the head, rows to the back, columns to the left."""
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((SPACING,) * 3)
    path = folder / "body.nii.gz"
    sitk.WriteImage(image, str(path))
    path.with_name("body.json").write_text(json.dumps({"labels": names}))
    return path


def in_mm(volume: hd.Volume, *point: float) -> float:
    """The depth at a point, LPS."""
    index = np.rint(volume.map_reference_to_indices(np.array([point]))[0]).astype(int)
    return float(volume.array[tuple(index)]) * DEPTH_UNIT


@pytest.mark.parametrize("cut", [True, False])
def test_where_a_label_map_cuts_a_femur_off_there_is_no_surface(tmp_path: Path, cut: bool) -> None:
    z, y, x = np.mgrid[:110, :40, :80] * SPACING
    labels = np.where(np.hypot((x - 120) / 110, (y - 60) / 55) < 1, 1, 0).astype(np.uint8)
    for code, middle in ((3, 180.0), (4, 60.0)):
        shaft = np.hypot(x - middle, y - 60) < 16
        head = np.sqrt((z - 290) ** 2 + (y - 60) ** 2 + (x - middle) ** 2) < 24
        labels[(shaft & (z >= 90) & (z < 290)) | head] = code
        # Its lower end, or another bone that a joint parts from it.
        labels[shaft & (z < (90 if cut else 80))] = 2
    names = {1: "body", 2: "skeleton", 3: "femur_left", 4: "femur_right"}
    atlas = load_atlas(written(labels, names, tmp_path))
    assert atlas.femur_depth is not None
    for middle in (180.0, 60.0):
        assert in_mm(atlas.femur_depth, middle, 60, 150) > 10
        last, next_to_it = (
            in_mm(atlas.femur_depth, middle, 60, 92),
            in_mm(atlas.depth, middle, 60, 86 if cut else 76),
        )
        assert (last > 10) is cut
        assert (next_to_it > 10) is cut
        # No bone comes to be where there was none.
        assert in_mm(atlas.femur_depth, middle + 24, 60, 92) < 0
        assert in_mm(atlas.depth, middle, 60, 150) < 0 or cut


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """A skull of 8 mm around a brain, a face that is one block, and a spine."""
    z, y, x = np.mgrid[:90, :80, :70] * SPACING
    away = np.sqrt((z - 170) ** 2 + (y - 130) ** 2 + (x - 105) ** 2)
    labels = np.where(np.hypot(x - 105, y - 115) < 100, 1, 0).astype(np.uint8)
    labels[away < 80] = 2
    labels[(np.abs(z - 105) < 32) & (np.abs(y - 50) < 32) & (np.abs(x - 105) < 32)] = 2
    labels[(np.hypot(x - 105, y - 150) < 12) & (z < 95)] = 2
    labels[away < 72] = 3
    return written(labels, {1: "body", 2: "skeleton", 3: "brain"}, tmp_path)


def test_the_inside_of_a_face_that_is_one_block_has_a_name_of_its_own(head: Path) -> None:
    labels = read_label_map(head)
    code = labels.code_of(SKELETON_INTERIOR)
    assert code is not None

    def at(*point: float) -> str:
        index = labels.grid.TransformPhysicalPointToIndex(point)
        return labels.names.get(int(labels.codes[index[::-1]]), "")

    assert at(105.0, 50.0, 105.0) == SKELETON_INTERIOR
    # Its wall is bone, and so are skullcap and spine.
    assert at(105.0, 21.0, 105.0) == "skeleton"
    assert at(105.0, 132.0, 246.0) == "skeleton"
    assert at(105.0, 150.0, 30.0) == "skeleton"
    assert at(105.0, 130.0, 170.0) == "brain"


def test_a_body_without_a_head_and_one_whose_bones_have_names_keep_theirs(head: Path) -> None:
    table = head.with_name("body.json")
    for known in ("skull", "skeleton"):
        names = {1: "body", 2: known, 3: "brain" if known == "skull" else "muscle"}
        table.write_text(json.dumps({"labels": names}))
        assert read_label_map(head).code_of(SKELETON_INTERIOR) is None


def test_nobody_is_judged_by_what_is_inside_of_such_a_face(head: Path) -> None:
    region = ImagedRegion(
        centre=(105.0, 100.0, 105.0), shape=(3, 100, 100), pixel_spacing=2.0, slice_spacing=4.0
    )
    phantom = anatomical_phantom(load_atlas(head), region, seed=0, subject=Subject(strength=0.0))
    labels = judged_truth(phantom)
    inside = structure_of(phantom, SKELETON_INTERIOR).array > 0
    assert inside.sum() > 0.2 * skeleton_of(phantom.tissues).array.sum()
    np.testing.assert_array_equal(labels.array == UNKNOWN, inside)
    np.testing.assert_array_equal(
        labels.array[~inside], skeleton_of(phantom.tissues).array[~inside]
    )
