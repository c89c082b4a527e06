"""From Hounsfield units to mineral: which calibration holds for a series.

A calibration phantom in the images counts most, for it was scanned with the patient; then what the site's configuration
says about the scanner (`[[pipelines.settings.qct_femur]]`); else density is not measured, and that is said.
"""

from dataclasses import dataclass
from enum import StrEnum

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ManifestError
from pipelines.qct_femur.rods import read_rods
from pipelines.result import Notice
from storage.model import Parameters


class Source(StrEnum):
    """Where a calibration comes from."""

    PHANTOM = "phantom"
    SCANNER = "scanner"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Density in mg/cm3 of hydroxyapatite = slope * HU + intercept."""

    source: Source
    slope: float  #: mg/cm3 per HU
    intercept: float  #: mg/cm3
    notices: tuple[Notice, ...]

    @property
    def is_known(self) -> bool:
        """Whether densities can be given."""
        return self.source is not Source.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """HU = slope * density + intercept through the rods of a phantom."""

    slope: float
    intercept: float
    r2: float


def check_parameters(parameters: Parameters) -> tuple[float, ...]:
    """Return the densities of the phantom's rods, mg/cm3; none if there is no phantom.

    Raises
    ------
    ManifestError
        `parameter-invalid`, naming the parameter.
    """
    if float(parameters["calibration_slope"]) < 0:
        raise ManifestError(
            "Parameter 'calibration_slope' is mg/cm3 per HU and positive, or 0 for none.",
            code="parameter-invalid",
        )
    text = str(parameters["phantom_densities"]).strip()
    try:
        densities = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise ManifestError(
            f"Parameter 'phantom_densities' is numbers separated by commas, not {text!r}.",
            code="parameter-invalid",
        ) from error
    if densities and len(set(densities)) < 3:
        raise ManifestError(
            "Parameter 'phantom_densities' needs three rods of different density at least.",
            code="parameter-invalid",
        )
    return densities


def calibrate(volume: hd.Volume, heads: NDArray[np.float64], parameters: Parameters) -> Calibration:
    """Return the calibration that holds for a series.

    Parameters
    ----------
    volume
        HU, axes (slice, row, column) in any orientation.
    heads
        x, y, z of the femoral heads, LPS, mm, shape (n, 3): the phantom is looked for at their height.
    parameters
        The pipeline's, complete.
    """
    densities = check_parameters(parameters)
    said: list[Notice] = []
    if densities:
        found = read_rods(volume, heads, densities)
        line = None if found is None else fit_line(found, densities)
        least = float(parameters["phantom_r2"])
        if line is None:
            said.append(_NO_PHANTOM)
        elif line.r2 < least or line.slope <= 0:
            said.append(_poor_fit(line, least))
        else:
            return _by_phantom(line)
    slope = float(parameters["calibration_slope"])
    if slope > 0:
        return _by_scanner(parameters, tuple(said))
    said.append(_UNCALIBRATED)
    return Calibration(source=Source.NONE, slope=0.0, intercept=0.0, notices=tuple(said))


def fit_line(measured: tuple[float, ...], densities: tuple[float, ...]) -> Line:
    """Fit HU = slope * density + intercept by least squares.

    Parameters
    ----------
    measured
        HU of the rods.
    densities
        mg/cm3, in the same order.
    """
    x, y = np.asarray(densities), np.asarray(measured)
    slope, intercept = np.polyfit(x, y, 1)
    spread = float(((y - y.mean()) ** 2).sum())
    residual = float(((y - slope * x - intercept) ** 2).sum())
    return Line(
        slope=float(slope),
        intercept=float(intercept),
        r2=1 - residual / spread if spread > 0 else 0.0,
    )


def _by_phantom(line: Line) -> Calibration:
    return Calibration(
        source=Source.PHANTOM,
        slope=1 / line.slope,
        intercept=-line.intercept / line.slope,
        notices=(
            Notice(
                code="density-calibrated-by-phantom",
                message=f"Density is calibrated by the phantom in the images: HU = {line.slope:.3f} * density "
                f"{line.intercept:+.1f}, r2 {line.r2:.4f}.",
            ),
        ),
    )


def _by_scanner(parameters: Parameters, said: tuple[Notice, ...]) -> Calibration:
    slope = float(parameters["calibration_slope"])
    intercept = float(parameters["calibration_intercept"])
    name = str(parameters["calibration_name"]) or "the configured one"
    notice = Notice(
        code="density-calibrated-by-scanner",
        message=f"Density is calibrated for the scanner ({name}): density = {slope:g} * HU {intercept:+g} mg/cm3.",
    )
    return Calibration(
        source=Source.SCANNER, slope=slope, intercept=intercept, notices=(*said, notice)
    )


_UNCALIBRATED = Notice(
    code="density-uncalibrated",
    message="There is no density calibration for this series: Hounsfield units only, no mineral density.",
)
_NO_PHANTOM = Notice(
    code="calibration-phantom-not-found",
    message="The calibration phantom of the settings was not found under the patient.",
)


def _poor_fit(line: Line, least: float) -> Notice:
    return Notice(
        code="calibration-phantom-poor-fit",
        message=f"The rods of the calibration phantom do not lie on a line (r2 {line.r2:.3f}, at least {least:g} is "
        "needed): it is not used.",
    )
