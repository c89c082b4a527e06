"""How fast phantoms are made: a whole study, a training slice, a crop around a femur.

    python benchmarks/phantoms.py --atlas shared/data/atlas [--workers 2] [--slices 300]

Limits: 60 s for 300 slices of 512 x 512 on two cores, 60 ms for a slice of 256 x 256, 1.5 s for a
crop of 96 x 96 x 96 at 1.5 mm.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from pipelines.training.phantoms.atlas import load_atlas
from pipelines.training.phantoms.procedural import ProceduralOptions, procedural_phantom
from pipelines.training.phantoms.render import ImagedRegion, anatomical_phantom


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atlas", type=Path, required=True, help="folder of the label maps")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--slices", type=int, default=300)
    options = parser.parse_args()
    started = time.perf_counter()
    atlas = load_atlas(options.atlas / "bp3d_body_1p5mm.nii.gz")
    print(f"loading the atlas: {time.perf_counter() - started:.1f} s")
    x, y, z = (float(value) for value in atlas.soft.center_position)
    whole = ImagedRegion(
        centre=(x, y, z - 80),
        shape=(options.slices, 512, 512),
        pixel_spacing=0.9,
        slice_spacing=2.0,
    )
    _measure(
        f"{options.slices} slices of 512 x 512, {options.workers} workers",
        lambda seed: anatomical_phantom(atlas, whole, seed=seed, workers=options.workers),
        rounds=1,
    )
    one = ImagedRegion(
        centre=(x, y, z - 200), shape=(1, 256, 256), pixel_spacing=1.5, slice_spacing=1.5
    )
    _measure("a slice of 256 x 256", lambda seed: anatomical_phantom(atlas, one, seed=seed))
    x, y, z = atlas.femora["left"].head
    crop = ImagedRegion(
        centre=(x + 20, y, z - 35), shape=(96, 96, 96), pixel_spacing=1.5, slice_spacing=1.5
    )
    _measure(
        "a crop of 96 x 96 x 96 at 1.5 mm, one worker",
        lambda seed: anatomical_phantom(atlas, crop, seed=seed),
        rounds=7,
    )
    _measure(
        "40 slices of 256 x 256 of the procedural body",
        lambda seed: procedural_phantom(ProceduralOptions(), seed=seed),
        rounds=3,
    )


def _measure(what: str, make: Callable[[int], object], rounds: int = 15) -> None:
    if rounds > 1:
        make(0)
    seconds = []
    for seed in range(1, rounds + 1):
        started = time.perf_counter()
        make(seed)
        seconds.append(time.perf_counter() - started)
    print(f"{what}: median {statistics.median(seconds):.3f} s, worst {max(seconds):.3f} s")


if __name__ == "__main__":
    main()
