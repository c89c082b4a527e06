"""Proximal femora in CT: a 3D V-Net finds and segments each side, then volume, attenuation and mineral are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
from highdicom import Volume
from torch import nn

from pipelines.errors import Refused, WeightsError
from pipelines.inference import Engine, Network, compile_network
from pipelines.manifest import Manifest
from pipelines.networks.vnet3d import VNet3d
from pipelines.qct_femur.calibration import calibrate, check_parameters
from pipelines.qct_femur.measuring import (
    State,
    Statements,
    calibration_statements,
    is_cut,
    is_solid,
    measure,
    statements_of,
)
from pipelines.qct_femur.metal import find_metal, has_implant, implant_beside
from pipelines.qct_femur.segmenting import Femur, Place, Side, locate, segment_femur
from pipelines.result import AnalysisResult, LoadContext, Measurement, Segment, SourceSeries
from storage.model import Parameters

ROLE = "ct"
#: Segment Number of each side.
NUMBERS: Mapping[Side, int] = {Side.LEFT: 1, Side.RIGHT: 2}

_FEWEST_SLICES = 20
_WIDEST_SPACING_MM = 5.0
#: Less than this of a body in any direction holds no hip, mm.
_SMALLEST_FIELD_MM = 60.0
#: As in the manifest.
_METAL_HU = 2500.0
#: Shapes on which ways to run the network are compared: sides vary with the field of view.
_PROBES = ((1, 1, 48, 32, 32), (1, 1, 32, 48, 64))


@dataclass(frozen=True, slots=True, kw_only=True)
class FemurModel:
    """What `load` makes and `run` needs."""

    network: Engine
    manifest: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of one side."""

    side: Side
    state: State
    mask: Volume | None = None  #: bool, on the source's grid; None where nothing is to be trusted
    middle: np.ndarray | None = None  #: x, y, z of the head, or of what was found, mm


def load(context: LoadContext) -> FemurModel:
    """Build the network and put its weights on the device."""
    if context.weights is None:
        raise WeightsError("The pipeline qct_femur needs weights; name them in its manifest.")
    network = load_network(context.weights, context.device)
    return FemurModel(
        network=compile_network(network, context.device, _PROBES), manifest=context.manifest
    )


def load_network(weights: Path, device: str) -> nn.Module:
    """Read weights (any float type) into a network of float32 in eval mode.

    Raises
    ------
    WeightsError
        When they are not this network's.
    """
    network = VNet3d()
    state = {name: value.float() for name, value in safetensors.torch.load_file(weights).items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{weights} holds the weights of another network; install those of this version."
        ) from error
    return network.to(device).eval()


def run(
    model: FemurModel, inputs: Mapping[str, SourceSeries], parameters: Parameters
) -> AnalysisResult:
    """Segment and measure the proximal femora of a CT series.

    Raises
    ------
    Refused
        `too-few-slices`, `spacing-too-wide`, `field-too-small` or `no-femur`.
    ManifestError
        For a calibration that is none.
    """
    volume = inputs[ROLE].volume
    check_parameters(parameters)
    check_series(volume)
    findings = find_femora(model.network, volume, float(parameters["metal_hu"]))
    seen = [finding.middle for finding in findings if finding.middle is not None]
    if all(finding.state is State.NOT_SEEN for finding in findings):
        raise Refused("No femur was found in the series.", code="no-femur")
    calibration = calibrate(volume, np.array(seen).reshape(-1, 3), parameters)
    said = [calibration_statements(calibration)]
    labels = np.zeros(volume.spatial_shape, np.uint8)
    for finding in findings:
        number = NUMBERS[finding.side]
        side = statements_of(finding.state, finding.side.name.lower(), number)
        measurements: tuple[Measurement, ...] = ()
        if finding.mask is not None:
            labels[finding.mask.array] = number
            measurements = measure(volume, finding.mask, calibration, number, finding.state)
        said.append(
            Statements(
                measurements=measurements, evaluations=side.evaluations, notices=side.notices
            )
        )
    return _result(model.manifest, volume.with_array(labels), said)


def check_series(volume: Volume) -> None:
    """Refuse what the pipeline is not made for.

    Parameters
    ----------
    volume
        Axes (slice, row, column), affine LPS in mm.

    Raises
    ------
    Refused
        With a coded reason and a sentence.
    """
    if volume.shape[0] < _FEWEST_SLICES:
        raise Refused(
            f"The series has {volume.shape[0]} slices; at least {_FEWEST_SLICES} are needed.",
            code="too-few-slices",
        )
    widest = float(max(volume.spacing))
    if widest > _WIDEST_SPACING_MM + 0.01:
        raise Refused(
            f"The voxels lie {widest:.1f} mm apart; {_WIDEST_SPACING_MM:.0f} mm is the limit.",
            code="spacing-too-wide",
        )
    shortest = min(n * s for n, s in zip(volume.spatial_shape, volume.spacing, strict=True))
    if shortest < _SMALLEST_FIELD_MM:
        raise Refused(
            f"The field of view is {shortest:.0f} mm in one direction; a hip needs "
            f"{_SMALLEST_FIELD_MM:.0f} mm at least.",
            code="field-too-small",
        )


def find_femora(network: Network, volume: Volume, metal_hu: float) -> tuple[Finding, ...]:
    """Return what became of left and right, in this order.

    Parameters
    ----------
    network
        From `load_network`.
    volume
        HU, axes (slice, row, column) in any orientation, affine LPS in mm.
    metal_hu
        From here on it is metal.
    """
    places = {place.side: place for place in locate(network, volume)}
    metal = find_metal(volume, metal_hu)
    voxel = float(volume.voxel_volume)
    findings = []
    for side in NUMBERS:
        place = places.get(side)
        if place is None:
            other = places.get(Side(-side))
            height = None if other is None else float(other.middle[2])
            implant = implant_beside(metal, volume, side, height)
            state = State.IMPLANT if implant else State.NOT_SEEN
            findings.append(Finding(side=side, state=state))
        elif has_implant(metal, place.middle, voxel):
            findings.append(Finding(side=side, state=State.IMPLANT, middle=place.middle))
        else:
            findings.append(_segmented(network, volume, place))
    return tuple(findings)


def segment_femora(network: Network, volume: Volume, variant: str = "default") -> Volume:
    """Return the label map of both sides, as the product makes it; `variant` has one value.

    Parameters
    ----------
    network
        From `load_network`.
    volume
        HU, axes (slice, row, column), affine LPS in mm.
    variant
        There is one.

    Returns
    -------
    highdicom.Volume
        uint8, 1 in the left proximal femur, 2 in the right one, on the same grid.
    """
    del variant
    labels = np.zeros(volume.spatial_shape, np.uint8)
    for finding in find_femora(network, volume, _METAL_HU):
        if finding.mask is not None:
            labels[finding.mask.array] = NUMBERS[finding.side]
    return volume.with_array(labels)


def _segmented(network: Network, volume: Volume, place: Place) -> Finding:
    femur: Femur | None = segment_femur(network, volume, place)
    if femur is None or not femur.mask.array.any():
        return Finding(side=place.side, state=State.HEADLESS, middle=place.middle)
    cut = is_cut(volume, femur.mask)
    if not is_solid(femur.mask, femur.head, femur.side, cut=cut):
        return Finding(side=place.side, state=State.PATCHY, middle=femur.head.centre)
    state = State.CUT if cut else State.MEASURED
    return Finding(side=place.side, state=state, mask=femur.mask, middle=femur.head.centre)


def _result(manifest: Manifest, labels: Volume, said: Sequence[Statements]) -> AnalysisResult:
    return AnalysisResult(
        role=ROLE,
        label_map=labels,
        segments=tuple(
            Segment(number=spec.number, spec=spec, label=spec.label) for spec in manifest.segments
        ),
        measurements=tuple(one for part in said for one in part.measurements),
        evaluations=tuple(one for part in said for one in part.evaluations),
        notices=tuple(one for part in said for one in part.notices),
    )
