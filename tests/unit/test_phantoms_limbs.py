"""Feet and hands from formulas."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from scipy import ndimage

from pipelines.training.phantoms.limbs import LimbBody, limb_body, limb_slice
from pipelines.training.phantoms.tissues import FIRST_BONE, Cut, Tissue, skeleton_of

SEEDS = range(8)


def drawn(seed: int) -> LimbBody:
    return limb_body(np.random.default_rng(seed))


def plane_at(body: LimbBody, height: float) -> Cut:
    geometry = hd.VolumeGeometry.from_components(
        (1, 256, 480),
        spacing=(1.0, 1.5, 1.0),
        coordinate_system="PATIENT",
        center_position=(0.0, -40.0, height),
        patient_orientation="FPL",
    )
    return body.cut(geometry, 0)


def test_there_are_feet_and_hands_and_no_two_are_alike() -> None:
    bodies = [drawn(seed) for seed in SEEDS]
    assert {len(body.bones) for body in bodies} == {48, 58}
    assert len({body.bones[0].ends for body in bodies}) == len(bodies)
    assert drawn(3).bones == bodies[3].bones


def test_both_sides_are_there_and_mirror_each_other() -> None:
    for body in map(drawn, SEEDS):
        half = len(body.bones) // 2
        for side, bones in ((1, body.bones[:half]), (-1, body.bones[half:])):
            assert np.mean([side * end[0] for bone in bones for end in bone.ends]) > 20


def test_every_bone_has_flesh_and_skin_around_it() -> None:
    for body in map(drawn, SEEDS):
        height = body.bones[0].ends[1][2] * 0.5
        cut = plane_at(body, height)
        bone = cut.tissues >= FIRST_BONE
        assert bone.any()
        np.testing.assert_array_equal(cut.depth > 0, bone)
        np.testing.assert_array_equal(cut.structures > 0, bone)
        around = ndimage.binary_dilation(bone) & ~bone
        assert not (cut.tissues[around] == Tissue.AIR).any()
        _, parts = ndimage.label(bone)
        assert parts >= 2
        assert (cut.tissues == Tissue.SKIN).any()
        assert (cut.cortex[bone] > 0).all()


def test_toes_are_many_small_bones() -> None:
    body = next(body for body in map(drawn, SEEDS) if len(body.bones) == 48)
    toes = [bone for bone in body.bones if bone.code == 3]
    counts = [ndimage.label(plane_at(body, bone.ends[0][2]).depth > 0)[1] for bone in toes[:8]]
    assert max(counts) >= 4


def test_a_slice_is_an_image_with_its_truth() -> None:
    one, same, other = (
        limb_slice(np.random.default_rng(seed), pixel_spacing=1.0, size=160) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one.image.array, same.image.array)
    assert (one.image.array != other.image.array).any()
    made = [limb_slice(np.random.default_rng(seed), pixel_spacing=1.0, size=160) for seed in SEEDS]
    inside = np.concatenate([p.image.array[skeleton_of(p.tissues).array > 0] for p in made])
    flesh = np.concatenate([p.image.array[p.tissues.array == Tissue.MUSCLE] for p in made])
    assert inside.size > 2000
    assert inside.mean() > flesh.mean() + 200
