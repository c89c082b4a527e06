"""Bones stouter and slighter than an atlas's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk

from pipelines.training.phantoms.atlas import load_atlas
from pipelines.training.phantoms.patient import draw_patient
from pipelines.training.phantoms.posing import pose_atlas
from pipelines.training.phantoms.stoutness import draw_stoutness
from pipelines.training.phantoms.tissues import FIRST_BONE


def test_bodies_differ_and_so_do_their_places_but_no_plate_vanishes() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-200, 200, (4000, 3)).astype(np.float32)
    by_body = np.array([draw_stoutness(rng).at(points) for _ in range(40)])
    assert by_body.dtype == np.float32
    assert by_body.min() >= np.float32(-0.8)
    assert by_body.max() <= np.float32(2.4)
    assert by_body.mean() == pytest.approx(0.35, abs=0.25)
    assert by_body.mean(axis=1).std() > 0.3
    assert np.median(by_body.std(axis=1)) > 0.3


@pytest.mark.parametrize("added", [-0.8, 0.0, 2.0])
def test_surfaces_lie_so_much_farther_out_in_the_image(tmp_path: Path, added: float) -> None:
    _z, y, x = np.mgrid[:30, :60, :60] * 2.0
    labels = np.where(np.hypot(x - 60, y - 60) < 50, 2, 0).astype(np.uint8)
    labels[np.hypot(x - 60, y - 60) < 20] = 1
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((2.0, 2.0, 2.0))
    sitk.WriteImage(image, str(tmp_path / "rod.nii.gz"))
    (tmp_path / "rod.json").write_text(json.dumps({1: "L3", 2: "muscle"}))
    atlas = load_atlas(tmp_path / "rod.nii.gz")
    rng = np.random.default_rng(0)
    centre = (60.0, 60.0, 30.0)
    body = pose_atlas(atlas, draw_patient(rng, contrast=None), rng, centre, strength=0.0)
    still = replace(draw_stoutness(rng), mm=added, places_mm=0.0, rough_mm=0.0)
    geometry = hd.VolumeGeometry.from_components(
        (1, 160, 160),
        spacing=(1.0, 0.5, 0.5),
        coordinate_system="PATIENT",
        center_position=(0.0, 0.0, 0.0),
        patient_orientation="HPL",
    )
    cut = replace(body, stoutness=still).cut(geometry, 0)
    radius = np.sqrt((cut.tissues >= FIRST_BONE).sum() * 0.25 / np.pi)
    asis = np.sqrt((body.cut(geometry, 0).tissues >= FIRST_BONE).sum() * 0.25 / np.pi)
    assert asis == pytest.approx(20, abs=1)
    assert radius - asis == pytest.approx(added, abs=0.35)
    np.testing.assert_array_equal(cut.structures > 0, cut.tissues > 0)
