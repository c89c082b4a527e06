"""MR phantoms and their truth as one picture.

python benchmarks/phantom_mr.py --atlas shared/data/atlas --out docs/phantoms-mr.png
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from pipelines.mr_spine_tumor.phantoms import training_body
from pipelines.training.phantoms.mr import MrOptions, MrPhantom, mr_phantom
from pipelines.training.phantoms.mr_growths import Choice
from pipelines.training.phantoms.mr_signal import draw_weighting
from pipelines.training.phantoms.mr_stacks import (
    DrawSpine,
    Plane,
    atlas_spines,
    draw_stack,
    geometry_of,
    procedural_spines,
)

#: Body, direction, whether fat is suppressed, seed.
_SHOWN = (
    ("atlas", Plane.SAGITTAL, False, 3),
    ("atlas", Plane.SAGITTAL, True, 8),
    ("atlas", Plane.AXIAL, True, 5),
    ("atlas", Plane.CORONAL, False, 6),
    ("procedural", Plane.SAGITTAL, True, 7),
    ("procedural", Plane.AXIAL, False, 9),
)


def _draw(draw: DrawSpine, plane: Plane, *, suppressed: bool, seed: int) -> MrPhantom:
    rng = np.random.default_rng(seed)
    spine, point = draw(rng)
    stack = draw_stack(rng, plane)
    pixel = 0.8 if plane is Plane.AXIAL else 1.1
    slab = replace(stack, slices=1, rows=256, columns=256, pixel_spacing=pixel)
    options = MrOptions(
        weighting=draw_weighting(rng, fat_suppressed=suppressed),
        choice=Choice(fewest=3, tumours=4, look_alikes=3, veins=0.7),
    )
    return mr_phantom(spine, geometry_of(slab, point), rng, options)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atlas", type=Path, required=True, help="folder of label maps")
    parser.add_argument("--out", type=Path, required=True, help="PNG")
    given = parser.parse_args()
    levels = tuple(f"L{n}" for n in range(1, 6)) + tuple(f"T{n}" for n in range(5, 13))
    atlas = atlas_spines(training_body(given.atlas), levels)
    figure, axes = plt.subplots(2, 6, figsize=(12, 4.5))
    for axis in axes.flat:
        axis.axis("off")
    for number, (body, plane, suppressed, seed) in enumerate(_SHOWN):
        draw = atlas if body == "atlas" else procedural_spines
        made = _draw(draw, plane, suppressed=suppressed, seed=seed)
        image, truth = made.image.array[0], made.labels.array[0]
        pair = axes[number // 3, 2 * (number % 3) : 2 * (number % 3) + 2]
        for axis in pair:
            axis.imshow(image, cmap="gray", vmax=np.percentile(image, 99.5))
        pair[0].set_title(f"{plane}{', fat-suppressed' if suppressed else ''}", fontsize=8)
        shown = np.ma.masked_equal(truth, 0)
        pair[1].imshow(shown, alpha=0.4, vmin=1, vmax=2, cmap="autumn")
    figure.tight_layout(pad=0.6)
    figure.savefig(given.out, dpi=56, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
