"""Muscles of the back lie against the spine, also where a label map draws thin ones in a bed of fat."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from pipelines.training.phantoms.atlas import load_atlas
from pipelines.training.phantoms.labels import LabelMap, read_label_map
from pipelines.training.phantoms.names import tissue_of
from pipelines.training.phantoms.paraspinal import DEEP, OUTER, draw_paraspinal, fill_paraspinal
from pipelines.training.phantoms.tissues import Tissue

NAMES = {
    1: "L3",
    2: "spinal_canal",
    3: "erector_spinae_left",
    4: "psoas_major_left",
    5: "internal_soft_tissue",
    6: "subcutaneous",
    7: "kidney_left",
}


def back() -> LabelMap:
    """Voxels of 2 mm: a vertebra with its canal, a sheet of muscle 20 mm behind it, the psoas 8 mm beside it."""
    codes = np.full((5, 50, 60), 5, np.uint8)
    codes[:, 10:30, 22:38] = 1
    codes[:, 22:27, 27:33] = 2
    codes[:, 40:42, 15:45] = 3
    codes[:, 14:26, 42:50] = 4
    codes[:, 34:36, 26:30] = 7
    codes[:, 44:] = 6
    codes[4][codes[4] == 2] = 1
    grid = SimpleITK.GetImageFromArray(codes)
    grid.SetSpacing((2.0, 2.0, 2.0))
    return LabelMap(codes=codes.copy(), names=NAMES, grid=grid)


def test_narrow_gaps_between_spine_and_muscles_become_muscle() -> None:
    before = back()
    after = fill_paraspinal(before)
    np.testing.assert_array_equal(before.codes, back().codes)
    deep, outer = after.code_of(DEEP), after.code_of(OUTER)
    assert deep is not None
    assert outer is not None
    assert tissue_of(DEEP) is tissue_of(OUTER) is Tissue.MUSCLE
    plane = after.codes[0]
    # Next to the bone, and before the sheet: not more than 5 mm from the bone, and more.
    assert set(plane[30:32, 25:35].ravel()) == {deep}
    assert set(plane[36:40, 25:35].ravel()) == {outer}
    assert set(plane[16:22, 40:42].ravel()) <= {deep, outer}
    # What is wide stays fat, and so does what is beside the canal and the bone without a muscle.
    assert set(plane[:10].ravel()) == {5}
    assert set(plane[12:28, 10:20].ravel()) == {5}


def test_only_inner_fat_gives_way_and_only_where_there_is_a_canal() -> None:
    before, after = back(), fill_paraspinal(back())
    changed = after.codes != before.codes
    assert set(before.codes[changed].tolist()) == {5}
    assert changed[:4].any(axis=(1, 2)).all()
    assert not changed[4].any()


def test_in_real_anatomy_most_of_what_touches_arches_is_muscle(shared_data: Path) -> None:
    def fat_behind(labels: LabelMap) -> float:
        """The share of fat in what is within 5 mm of lumbar vertebrae, 50 mm and more behind their front."""
        bones = [code for code, name in labels.names.items() if name in ("L1", "L2", "L3", "L4")]
        pixel, found = labels.grid.GetSpacing()[0], np.zeros(2)
        for plane in labels.codes:
            bone = np.isin(plane, bones)
            if bone.any():
                near = (ndimage.distance_transform_edt(~bone) * pixel <= 5) & ~bone
                near[: np.flatnonzero(bone.any(axis=1))[0] + round(50 / pixel)] = False
                for at, tissue in enumerate((Tissue.FAT, Tissue.MUSCLE)):
                    found[at] += np.isin(plane[near], labels.codes_of(tissue)).sum()
        return float(found[0] / found.sum())

    drawn = read_label_map(shared_data / "atlas" / "bp3d_body_1p5mm.nii.gz")
    other = read_label_map(shared_data / "atlas" / "spl_abdomen.nii.gz")
    filled = fill_paraspinal(drawn)
    assert fat_behind(drawn) > 0.8
    assert fat_behind(filled) < fat_behind(other) < 0.15
    bone = np.isin(drawn.codes, drawn.codes_of(Tissue.SPINE))
    np.testing.assert_array_equal(filled.codes[bone], drawn.codes[bone])


def test_some_backs_have_wasted_from_the_bone_outwards(tmp_path: Path) -> None:
    path = tmp_path / "back.nii.gz"
    SimpleITK.WriteImage(back().grid, str(path))
    path.with_name("back.json").write_text(json.dumps(NAMES))
    rng = np.random.default_rng(0)
    plain = load_atlas(path)
    assert draw_paraspinal(rng, plain) is plain
    atlas = load_atlas(path, fill_paraspinal)
    codes = {name: code for code, name in atlas.names.items()}
    backs = [draw_paraspinal(rng, atlas).tissues for _ in range(400)]
    drawn = [(Tissue(one[codes[DEEP]]), Tissue(one[codes[OUTER]])) for one in backs]
    share = {found: drawn.count(found) / len(drawn) for found in set(drawn)}
    assert share[(Tissue.MUSCLE, Tissue.MUSCLE)] == pytest.approx(0.75, abs=0.06)
    assert share[(Tissue.FAT, Tissue.MUSCLE)] == pytest.approx(0.15, abs=0.05)
    assert share[(Tissue.FAT, Tissue.FAT)] == pytest.approx(0.1, abs=0.05)
    assert atlas.tissues[codes[DEEP]] == Tissue.MUSCLE
