"""Patient tables: what lies under the patient on every CT image and is not patient."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

AIR_HU = -1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """A sheet seen end-on: the curve y = y0 - x**2 / (2 radius), the edges turned up."""

    offset: float  #: mm below the top of the table
    radius: float  #: mm; the larger, the flatter
    thickness: float  #: mm
    half_width: float  #: mm
    hounsfield: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rod:
    """A rail, cable or screw seen end-on."""

    x: float  #: mm from the middle
    y: float  #: mm below the top of the table
    radius: float  #: mm
    hounsfield: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A patient table: foam between shells, rods, and how deep the body sinks in."""

    shells: tuple[Shell, ...]
    rods: tuple[Rod, ...]
    sink: float  #: mm by which the mattress yields to the body


def draw_table(rng: np.random.Generator) -> Table:
    """Draw a table: cradles, a flat top or a box, with or without a mattress and rails."""
    design = rng.choice(["foam cradle", "cradle", "flat", "box"], p=[0.3, 0.3, 0.2, 0.2])
    if design == "foam cradle":
        return foam_cradle(rng)
    radius = rng.uniform(250, 700) if design == "cradle" else rng.uniform(1500, 20000)
    half = rng.uniform(180, 270)
    gap = rng.uniform(3, 45)
    depth = rng.uniform(10, 70)
    hard = rng.uniform(-500, 700)
    shells = [
        _shell(rng, gap, radius, half, hard + rng.uniform(-300, 100)),
        _shell(rng, gap + depth, radius * rng.uniform(0.7, 1.2), half, hard),
    ]
    if rng.random() < 0.6:  # foam between the shells
        shells.append(
            Shell(
                offset=gap + depth / 2,
                radius=radius,
                thickness=depth,
                half_width=half,
                hounsfield=rng.uniform(-985, -880),
            )
        )
    if rng.random() < 0.6:  # mattress with its cover
        shells.append(
            Shell(
                offset=gap / 2,
                radius=radius,
                thickness=gap,
                half_width=half * rng.uniform(0.8, 1.05),
                hounsfield=rng.uniform(-980, -750),
            )
        )
        shells.append(_shell(rng, 0.0, radius * rng.uniform(0.8, 1.2), half, -600.0))
    rods: list[Rod] = []
    if rng.random() < 0.5:
        rods += _draw_rails(rng, gap, depth, half, radius)
    if rng.random() < 0.3:
        rods += _draw_cables(rng, half)
    return Table(shells=tuple(shells), rods=tuple(rods), sink=rng.uniform(0, 12))


def foam_cradle(rng: np.random.Generator) -> Table:
    """Return the table under the patient of TCGA-09-2043 (TCIA, TCGA-OV), a little varied.

    A mattress in a thin cover on two curved shells with foam between them; measured in that CT.
    """
    size = rng.uniform(0.93, 1.07)
    gap, depth = 13.0 * size, 42.0 * size
    return Table(
        shells=(
            Shell(offset=0, radius=470, thickness=1.2, half_width=225, hounsfield=-640),
            Shell(offset=gap / 2, radius=470, thickness=gap, half_width=220, hounsfield=-930),
            Shell(
                offset=gap,
                radius=460,
                thickness=2.2,
                half_width=205,
                hounsfield=rng.uniform(-150, 150),
            ),
            Shell(
                offset=gap + depth / 2,
                radius=400,
                thickness=depth,
                half_width=182,
                hounsfield=rng.uniform(-945, -915),
            ),
            Shell(
                offset=gap + depth,
                radius=350,
                thickness=3.0,
                half_width=181,
                hounsfield=rng.uniform(150, 350),
            ),
        ),
        rods=(),
        sink=rng.uniform(1, 8),
    )


def table_image(table: Table, x: Floats, y: Floats, pixel: float) -> Floats:
    """Return what a table alone would measure.

    Parameters
    ----------
    table
        The table.
    x
        float32, shape (columns,), mm from the table's middle.
    y
        float32, shape (rows,), mm below the table's top, positive downwards.
    pixel
        Pixel spacing in mm: edges are that soft.

    Returns
    -------
    numpy.ndarray
        float32, shape (rows, columns), HU.
    """
    image = np.full((y.size, x.size), AIR_HU, np.float32)
    for shell in table.shells:
        middle = shell.offset - x**2 / (2 * shell.radius)
        distance = np.abs(y[:, None] - middle[None, :]) - shell.thickness / 2
        share = np.clip(0.5 - distance / pixel, 0, 1) * (np.abs(x) < shell.half_width)
        image = np.maximum(image, AIR_HU + share * (shell.hounsfield - AIR_HU))
    for rod in table.rods:
        distance = np.hypot(x[None, :] - rod.x, y[:, None] - rod.y) - rod.radius
        share = np.clip(0.5 - distance / pixel, 0, 1)
        image = np.maximum(image, AIR_HU + share * (rod.hounsfield - AIR_HU))
    return image


def _shell(
    rng: np.random.Generator, offset: float, radius: float, half: float, hounsfield: float
) -> Shell:
    return Shell(
        offset=offset,
        radius=radius,
        thickness=rng.uniform(1.0, 4.0),
        half_width=half,
        hounsfield=max(hounsfield, -900.0),
    )


def _draw_rails(
    rng: np.random.Generator, gap: float, depth: float, half: float, radius: float
) -> list[Rod]:
    x = half * rng.uniform(0.6, 1.0)
    y = gap + depth * rng.uniform(0, 1) - x**2 / (2 * radius)
    size, hounsfield = rng.uniform(2, 9), rng.uniform(-200, 2800)
    return [Rod(x=side * x, y=y, radius=size, hounsfield=hounsfield) for side in (-1.0, 1.0)]


def _draw_cables(rng: np.random.Generator, half: float) -> list[Rod]:
    return [
        Rod(
            x=rng.uniform(-half, half),
            y=rng.uniform(-150, 5),
            radius=rng.uniform(0.8, 3),
            hounsfield=rng.uniform(100, 2500),
        )
        for _ in range(rng.integers(1, 5))
    ]
