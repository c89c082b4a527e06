"""Urine goes from the kidneys to the bladder, also where a label map has nothing between them."""

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
from pipelines.training.phantoms.tissues import Tissue
from pipelines.training.phantoms.ureters import add_ureters, draw_ureters, part_ureters

NAMES = {
    1: "internal_soft_tissue",
    2: "kidney_left",
    3: "kidney_right",
    4: "psoas_major_left",
    5: "psoas_major_right",
    6: "urinary_bladder",
    7: "sacrum",
}


def trunk() -> LabelMap:
    """Voxels of 3 mm, 290 mm of a trunk; left is where columns are high."""
    codes = np.zeros((96, 60, 80), np.uint8)
    codes[1:-1, 4:56, 4:76] = 1
    for kidney, psoas, middle, hilum in ((2, 4, 50, 64), (3, 5, 30, 16)):
        codes[42:88, 32:40, middle - 5 : middle + 5] = psoas
        codes[70:90, 26:36, hilum - 5 : hilum + 5] = kidney
    codes[6:16, 20:34, 32:48] = 6
    codes[10:50, 42:52, 30:50] = 7
    grid = SimpleITK.GetImageFromArray(codes)
    grid.SetSpacing((3.0, 3.0, 3.0))
    return LabelMap(codes=codes.copy(), names=NAMES, grid=grid)


def without(labels: LabelMap, code: int) -> LabelMap:
    kept = {known: name for known, name in labels.names.items() if known != code}
    codes = np.where(labels.codes == code, np.uint8(1), labels.codes)
    return LabelMap(codes=codes, names=kept, grid=labels.grid)


def check_way(labels: LabelMap, side: str) -> None:
    """One piece of urine leads from the kidney to within a few mm of the bladder."""
    codes = [
        code
        for code, name in labels.names.items()
        if name.startswith((f"ureter_{side}_", f"renal_pelvis_{side}"))
    ]
    assert len(codes) == 4
    assert {tissue_of(labels.names[code]) for code in codes} == {Tissue.URINE}
    way = np.isin(labels.codes, codes)
    pieces, _ = ndimage.label(way, np.ones((3, 3, 3)))
    largest = pieces == np.bincount(pieces[way]).argmax()
    assert largest.sum() > 0.9 * way.sum()
    near = ndimage.binary_dilation(largest, iterations=4)
    assert (near & (labels.codes == labels.code_of(f"kidney_{side}"))).any()
    assert (near & (labels.codes == labels.code_of("urinary_bladder"))).any()


def test_a_ureter_leads_from_each_kidney_to_the_bladder_through_fat() -> None:
    before = trunk()
    after = add_ureters(before)
    np.testing.assert_array_equal(before.codes, trunk().codes)
    for side in ("left", "right"):
        check_way(after, side)
    changed = before.codes[after.codes != before.codes]
    assert set(changed.tolist()) <= {1, 2, 3}
    ureters = [code for code, name in after.names.items() if name.startswith("ureter")]
    assert set(before.codes[np.isin(after.codes, ureters)].tolist()) == {1}
    # On the psoas, not beside it.
    for side, columns in (("left", slice(45, 56)), ("right", slice(25, 36))):
        mine = [code for code in ureters if side in after.names[code]]
        rows, across = np.nonzero(np.isin(after.codes[55], mine))
        assert rows.size
        assert rows.max() < 32
        assert columns.start <= across.min() <= across.max() < columns.stop


def test_a_side_without_its_kidney_and_a_body_without_bladder_get_none() -> None:
    one = add_ureters(without(trunk(), 3))
    assert one.code_of("ureter_left_1") is not None
    assert one.code_of("ureter_right_1") is None
    none = without(trunk(), 6)
    np.testing.assert_array_equal(add_ureters(none).codes, none.codes)


def test_ureters_of_real_anatomy_touch_no_bone(shared_data: Path) -> None:
    before = read_label_map(shared_data / "atlas" / "bp3d_body_1p5mm.nii.gz")
    after = add_ureters(before)
    for side in ("left", "right"):
        check_way(after, side)
        parts = [after.code_of(f"ureter_{side}_{number}") for number in (1, 2, 3)]
        volume = np.isin(after.codes, parts).sum() * np.prod(after.grid.GetSpacing()) / 1000
        # 25 cm long, 6 mm wide.
        assert 5 < volume < 9
    changed = after.codes != before.codes
    gone = set(before.codes[changed].tolist())
    assert {tissue_of(before.names[code]) for code in gone} == {Tissue.FAT, Tissue.KIDNEY}


def test_a_whole_ureter_is_parted_by_height() -> None:
    before = trunk()
    before.codes[12:72, 30:32, 62:64] = 8
    before = LabelMap(codes=before.codes, names={**NAMES, 8: "ureter_left"}, grid=before.grid)
    after = part_ureters(before)
    parts = [after.code_of(f"ureter_left_{number}") for number in (1, 2, 3)]
    np.testing.assert_array_equal(np.isin(after.codes, parts), before.codes == 8)
    spans = [np.flatnonzero((after.codes == part).any(axis=(1, 2))) for part in parts]
    assert [(span.min(), span.max()) for span in spans] == [(52, 71), (32, 51), (12, 31)]
    assert after.code_of("ureter_right_1") is None
    np.testing.assert_array_equal(part_ureters(trunk()).codes, trunk().codes)


def test_ureters_of_the_held_out_body_are_parted(shared_data: Path) -> None:
    labels = part_ureters(read_label_map(shared_data / "atlas" / "spl_abdomen.nii.gz"))
    for side in ("left", "right"):
        assert not (labels.codes == labels.code_of(f"ureter_{side}")).any()
        sizes = [(labels.codes == labels.code_of(f"ureter_{side}_{n}")).sum() for n in (1, 2, 3)]
        assert min(sizes) > 0.15 * sum(sizes)


def test_parts_of_ureters_are_full_or_empty(tmp_path: Path) -> None:
    path = tmp_path / "trunk.nii.gz"
    SimpleITK.WriteImage(trunk().grid, str(path))
    path.with_name("trunk.json").write_text(json.dumps(NAMES))
    rng = np.random.default_rng(0)
    plain = load_atlas(path)
    assert draw_ureters(rng, plain) is plain
    atlas = load_atlas(path, add_ureters)
    parts = [code for code, name in atlas.names.items() if name.startswith("ureter_")]
    drawn = np.array([draw_ureters(rng, atlas).tissues[parts] for _ in range(200)])
    assert drawn.shape[1] == 6
    assert set(drawn.ravel().tolist()) == {Tissue.URINE, Tissue.MUSCLE}
    assert (drawn == Tissue.URINE).mean() == pytest.approx(0.5, abs=0.05)
    assert len(np.unique(drawn, axis=0)) > 40
    assert (atlas.tissues[parts] == Tissue.URINE).all()
