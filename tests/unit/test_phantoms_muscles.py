from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import SimpleITK as sitk

from pipelines.training.phantoms.labels import LabelMap
from pipelines.training.phantoms.muscles import complete_muscles

LEFT, RIGHT, SPINE, RECTUS = 1, 2, 3, 4
#: Columns run to the left, rows to the back; the spine's middle.
ROW, COLUMN = 70, 80


def trunk(names: Mapping[int, str]) -> LabelMap:
    """Three planes of a trunk whose wall is external oblique all around, with a spine in its back."""
    row, column = np.indices((120, 161)) - np.array([ROW, COLUMN])[:, None, None]
    around = np.hypot((row + 15) / 45, column / 70)
    wall = (around > 0.92) & (around < 1) & (row < 20)
    codes = np.zeros((3, 120, 161), np.uint8)
    codes[:, wall & (column > 0)], codes[:, wall & (column < 0)] = LEFT, RIGHT
    codes[:, (np.abs(row) < 8) & (np.abs(column) < 8)] = SPINE
    grid = sitk.GetImageFromArray(codes)
    grid.SetSpacing((1.5, 1.5, 1.5))
    return LabelMap(codes=codes, names=dict(names), grid=grid)


NAMES = {0: "air", LEFT: "external_oblique_left", RIGHT: "external_oblique_right", SPINE: "L1"}


def test_external_oblique_ends_where_a_rectus_would_be() -> None:
    made = complete_muscles(trunk(NAMES))
    for side, code in (("left", LEFT), ("right", RIGHT)):
        muscle, sheet = (
            np.argwhere(made.codes[1] == made.code_of(name)) - (ROW, COLUMN)
            for name in (f"external_oblique_{side}", f"external_oblique_aponeurosis_{side}")
        )
        assert len(sheet) > 50
        assert (sheet[:, 0] < 0).all()
        assert np.abs(sheet[:, 1]).max() < 35 <= np.abs(muscle[muscle[:, 0] < 0][:, 1]).min()
        assert (np.sign(sheet[:, 1]) == (1 if code == LEFT else -1)).all()


def test_an_external_oblique_beside_a_rectus_is_left_as_it_is() -> None:
    labels = trunk({**NAMES, RECTUS: "rectus_abdominis"})
    labels.codes[:, 5:10, 60:101] = RECTUS
    before = np.isin(labels.codes, (LEFT, RIGHT))
    made = complete_muscles(labels)
    assert not any("aponeurosis" in name for name in made.names.values())
    np.testing.assert_array_equal(np.isin(made.codes, (LEFT, RIGHT)), before)
