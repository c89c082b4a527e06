"""A picture of SPECT/CT phantoms: `python benchmarks/phantom_spect.py --atlas DIR --out docs/phantoms-spect.png`."""

from __future__ import annotations

import argparse
from pathlib import Path

import highdicom as hd
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipelines.spect_ct_bone_lesion.grids import AIR_HU, onto
from pipelines.spect_ct_bone_lesion.phantoms import held_out_studies
from pipelines.training.case import Case

_COLOURS = ("#e03c3c", "#3c9be0")  # metastases, benign lesions


def main() -> None:
    """Draw one study of each source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atlas", type=Path, required=True, help="folder of label maps")
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    parser.add_argument("--seed", type=int, default=1_000_001)
    options = parser.parse_args()
    studies = {
        "label map": held_out_studies(options.atlas)(options.seed),
        "procedural body": held_out_studies(None)(options.seed + 13),
    }
    figure = Figure(figsize=(15, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(studies), 4, squeeze=False)
    for row, (name, case) in zip(axes, studies.items(), strict=True):
        _draw_study(list(row), name, case)
    figure.savefig(options.out, dpi=70)


def _draw_study(row: list[Axes], name: str, case: Case) -> None:
    spect, truth = case.image.array.astype(float), case.labels.array
    fused = onto(case.image, case.partners["ct"], AIR_HU).array
    bright = float(np.percentile(spect, 99.4))
    index = int(np.argmax([(plane > 0).sum() + 30 * len(np.unique(plane)) for plane in truth]))
    row[0].imshow(spect.max(axis=1), cmap="gray_r", vmax=bright)
    row[0].set_title(f"{name}: SPECT, from the front")
    _outline(row[0], truth.max(axis=1))
    row[1].imshow(spect[index], cmap="gray_r", vmax=bright)
    row[1].set_title("SPECT, axial")
    row[2].imshow(fused[index], cmap="gray", vmin=-200, vmax=800)
    row[2].set_title("CT on SPECT's voxels")
    ct = case.partners["ct"]
    _draw_fine(row[3], ct, case, index)
    for one in row[1:3]:
        _outline(one, truth[index])
    for one in row:
        one.set_axis_off()


def _draw_fine(axes: Axes, ct: hd.Volume, case: Case, index: int) -> None:
    place = case.image.map_indices_to_reference(np.array([[index, 0, 0]]))
    slice_of_ct = round(float(ct.map_reference_to_indices(place)[0, 0]))
    axes.imshow(
        ct.array[np.clip(slice_of_ct, 0, ct.shape[0] - 1)], cmap="gray", vmin=-200, vmax=800
    )
    axes.set_title("CT on its own")


def _outline(axes: Axes, labels: np.ndarray) -> None:
    for value, colour in enumerate(_COLOURS, start=1):
        if (labels == value).any():
            axes.contour(labels == value, levels=[0.5], colors=colour, linewidths=0.9)


if __name__ == "__main__":
    main()
