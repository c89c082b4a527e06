"""Between the arches of two vertebrae is a joint, also where a label map draws none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from pipelines.training.phantoms.facets import part_facets
from pipelines.training.phantoms.labels import LabelMap, read_label_map
from pipelines.training.phantoms.names import tissue_of
from pipelines.training.phantoms.tissues import Tissue


def _contacts(labels: LabelMap) -> int:
    """Count the faces of voxels between two vertebrae."""
    vertebrae = [code for code, name in labels.names.items() if re.fullmatch(r"[CTL]\d+", name)]
    codes = np.where(np.isin(labels.codes, vertebrae), labels.codes, 0)
    pairs = [(np.moveaxis(codes, k, 0)[1:], np.moveaxis(codes, k, 0)[:-1]) for k in range(3)]
    return sum(int(((one != two) & (one > 0) & (two > 0)).sum()) for one, two in pairs)


def test_vertebrae_that_touch_are_parted_by_a_joint_and_keep_the_rest() -> None:
    codes = np.zeros((20, 12, 12), np.uint8)
    codes[2:10, 2:10, 2:10], codes[10:18, 2:10, 2:10] = 1, 2
    codes[2:10, 10:, :] = 3
    grid = SimpleITK.GetImageFromArray(codes)
    labels = LabelMap(codes=codes.copy(), names={1: "L1", 2: "L2", 3: "aorta"}, grid=grid)
    parted = part_facets(labels)
    np.testing.assert_array_equal(labels.codes, codes)
    joint = parted.code_of("facet_cartilage")
    assert joint is not None
    assert tissue_of(parted.names[joint]) is Tissue.CARTILAGE
    # Voxels of 1 mm: two of each vertebra lie less than 1.5 mm from the other.
    expected = codes.copy()
    expected[9:11, 2:10, 2:10] = joint
    np.testing.assert_array_equal(parted.codes, expected)


@pytest.mark.parametrize("name", ["bp3d_body_1p5mm", "spl_abdomen"])
def test_in_bodies_of_real_anatomy_no_vertebra_touches_the_next(
    shared_data: Path, name: str
) -> None:
    labels = read_label_map(shared_data / "atlas" / f"{name}.nii.gz")
    assert _contacts(labels) > 0
    parted = part_facets(labels)
    assert _contacts(parted) == 0
    bone = np.isin(labels.codes, labels.codes_of(Tissue.SPINE))
    assert (parted.codes != labels.codes)[bone].mean() < 0.06
    np.testing.assert_array_equal(parted.codes[~bone], labels.codes[~bone])
