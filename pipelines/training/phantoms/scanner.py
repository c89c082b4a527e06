"""How a CT series is acquired and reconstructed."""

from dataclasses import dataclass

import numpy as np

from pipelines.training.phantoms.physics import Beam
from pipelines.training.phantoms.tables import Table, draw_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """One scanner with one protocol."""

    table: Table | None
    blur_mm: float  #: standard deviation of the in-plane point spread function
    sharpening: float  #: edge enhancement: 0 for a soft kernel, about 1 for a bone kernel
    noise_hu: float  #: in the middle of 300 mm of water, in slices 3 mm thick
    beam: Beam
    circle: float | None  #: radius of the reconstructed circle in half field-of-view widths
    padding: int  #: value outside of that circle
    couch_mm: float = 0.0  #: how far the patient lies beside the middle of the table
    calibrated: bool = False  #: whether a calibration phantom lies under the patient


def draw_scanner(rng: np.random.Generator) -> Scanner:
    """Draw a scanner and its protocol."""
    bone_kernel = rng.random() < 0.25
    return Scanner(
        table=draw_table(rng) if rng.random() < 0.85 else None,
        blur_mm=rng.uniform(0.3, 0.5) if bone_kernel else rng.uniform(0.45, 0.85),
        sharpening=rng.uniform(0.5, 1.6) if bone_kernel else rng.uniform(0.0, 0.35),
        noise_hu=rng.uniform(18, 50) if bone_kernel else float(rng.gamma(5, 2.4)) + 3,
        beam=Beam(
            hardening=rng.uniform(0.2, 0.9),
            metal=str(rng.choice(["titanium", "steel"])),
            modulation=rng.uniform(0.3, 1.0),
            electronic=rng.uniform(0.01, 0.06),
        ),
        circle=rng.uniform(0.93, 1.05) if rng.random() < 0.5 else None,
        padding=int(rng.choice([-2048, -1024, -1000, -3024])),
        couch_mm=rng.normal(0, 12),
        calibrated=bool(rng.random() < 0.12),
    )
