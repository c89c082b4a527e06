"""Skeleton segmentation in CT: slice-wise 2D U-Net after the published preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from highdicom import Volume
from numpy.typing import NDArray
from torch import nn

from pipelines.ct_skeleton.measuring import incompleteness, measure_bone
from pipelines.ct_skeleton.postprocessing import (
    bridge_slices,
    fill_cavities,
    fill_small_holes,
    heed_neighbours,
    remove_metal,
    remove_open_marrow,
    remove_specks,
)
from pipelines.ct_skeleton.preprocessing import (
    Floats,
    Normalisation,
    apply_threshold,
    clip,
    normalise,
    upper_bound,
)
from pipelines.ct_skeleton.stretcher import body_mask, remove_stretcher
from pipelines.errors import ManifestError, Refused, WeightsError
from pipelines.inference import (
    Engine,
    Network,
    SliceInference,
    bounding_box,
    compile_network,
    mirrored,
    put_back,
    segment_slices,
)
from pipelines.manifest import Manifest
from pipelines.networks.unet2d import STRIDE, UNet2d
from pipelines.result import AnalysisResult, LoadContext, Notice, Segment, SourceSeries
from storage.model import Parameters

ROLE = "ct"
#: In-plane spacing of the network's training slices, mm.
PIXEL_SPACING = 1.0

_FEWEST_SLICES = 10
_WIDEST_SPACING_MM = 10.0
#: Cosine of the largest gantry tilt that still counts as axial, 30 degrees.
_AXIAL_COSINE = 0.866
_MARGIN_MM = 8.0
#: Slices run to the feet, rows to the back, columns to the left.
_UPRIGHT = "FPL"
#: Shapes on which OpenVINO must agree with torch.
_PROBES = ((1, 1, 64, 96), (2, 1, 96, 64))


@dataclass(frozen=True, slots=True, kw_only=True)
class SkeletonModel:
    """What `load` makes and `run` needs."""

    network: Engine
    manifest: Manifest


def load(context: LoadContext) -> SkeletonModel:
    """Build the network and put its weights on the device."""
    if context.weights is None:
        raise WeightsError("The pipeline ct_skeleton needs weights; name them in its manifest.")
    network = load_network(context.weights, context.device)
    return SkeletonModel(
        network=compile_network(network, context.device, _PROBES), manifest=context.manifest
    )


def load_network(weights: Path, device: str) -> nn.Module:
    """Read weights (any float type) into a network of float32 in eval mode.

    Raises
    ------
    WeightsError
        When they are not this network's.
    """
    network = UNet2d()
    state = {name: value.float() for name, value in safetensors.torch.load_file(weights).items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{weights} holds the weights of another network; install those of this version."
        ) from error
    return network.to(device).eval()


def run(
    model: SkeletonModel, inputs: Mapping[str, SourceSeries], parameters: Parameters
) -> AnalysisResult:
    """Segment and measure the skeleton of an axial CT series.

    Raises
    ------
    Refused
        `too-few-slices`, `not-axial`, `spacing-too-wide` or `no-body`.
    ManifestError
        For a normalisation that does not exist.
    """
    volume = inputs[ROLE].volume
    check_series(volume)
    skeleton = segment_skeleton(
        model.network,
        volume,
        normalisation_of(parameters),
        mirror=bool(parameters["mirror"]),
    )
    statements = measure_bone(volume, skeleton, parameters)
    cut = incompleteness(skeleton)
    spec = model.manifest.segments[0]
    empty = not skeleton.array.any()
    notices = (Notice(code="no-bone-found", message="No bone was found."),) if empty else ()
    return AnalysisResult(
        role=ROLE,
        label_map=skeleton,
        segments=(Segment(number=1, spec=spec, label=spec.label),),
        measurements=statements,
        evaluations=cut.evaluations,
        notices=(*notices, *cut.notices),
    )


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
    if abs(float(volume.unit_vectors()[0][2])) < _AXIAL_COSINE:
        raise Refused("The slices are not axial; send the axial reconstruction.", code="not-axial")
    if float(volume.spacing[0]) > _WIDEST_SPACING_MM:
        raise Refused(
            f"The slices lie {volume.spacing[0]:.1f} mm apart; "
            f"{_WIDEST_SPACING_MM:.0f} mm is the limit.",
            code="spacing-too-wide",
        )


def normalisation_of(parameters: Parameters) -> Normalisation:
    """Return the variant that the parameters name."""
    name = str(parameters["normalisation"])
    if name not in set(Normalisation):
        raise ManifestError(
            f"Parameter 'normalisation' is {', '.join(Normalisation)}, not {name!r}.",
            code="parameter-invalid",
        )
    return Normalisation(name)


def segment_skeleton(
    network: Network, volume: Volume, normalisation: Normalisation, *, mirror: bool = True
) -> Volume:
    """Return where there is bone, marrow included.

    Parameters
    ----------
    network
        From `load_network`, compiled or as it is.
    volume
        HU, axes (slice, row, column), affine LPS in mm; axial, in any row and column order.
    normalisation
        The variant of the last preprocessing step.
    mirror
        Average with what the mirrored slices say: twice the time.

    Returns
    -------
    highdicom.Volume
        uint8, 1 in bone, on the grid of `volume`.
    """
    # Front up and right on the left, as the network has seen patients.
    upright = volume.to_patient_orientation(_UPRIGHT)
    body = body_mask(upright)
    box = bounding_box(body, (0, _MARGIN_MM, _MARGIN_MM))
    if box is None:
        raise Refused("There is no body in the series.", code="no-body")
    alone = remove_stretcher(upright, body)
    upper = upper_bound(_sample(alone.array), normalisation)
    how = SliceInference(pixel_spacing=PIXEL_SPACING, stride=STRIDE)
    asked = mirrored(network) if mirror else network
    found = segment_slices(asked, alone, partial(_prepare, upper=upper), box, how)
    found.array[...] &= body.array
    found = fill_small_holes(remove_specks(bridge_slices(found, alone)))
    found = fill_small_holes(heed_neighbours(found, alone))
    found = fill_cavities(remove_open_marrow(found, alone), alone)
    found = remove_metal(found, alone)
    return put_back(found, volume)


def _prepare(image: NDArray[Any], *, upper: float) -> Floats:
    return normalise(clip(apply_threshold(image.astype(np.float32))), upper)


def _sample(image: NDArray[Any]) -> Floats:
    """Return every fourth row and column after clipping: enough for a percentile."""
    return clip(apply_threshold(image[:, ::4, ::4].astype(np.float32)))
