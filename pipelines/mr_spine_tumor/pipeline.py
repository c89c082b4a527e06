"""Spinal tumours in contrast-enhanced T1-weighted MR: a network of extracted patches, then every tumour by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
from highdicom import Volume
from torch import nn

from pipelines.errors import Refused, WeightsError
from pipelines.inference import Engine, compile_network
from pipelines.manifest import Manifest
from pipelines.mr_spine_tumor.measuring import measure_all, measure_tumours, statements
from pipelines.mr_spine_tumor.segmenting import VERTEBRAE, number_tumours, segment_spine
from pipelines.mr_spine_tumor.sequence import check_sequence
from pipelines.networks.penn2d import Penn2d
from pipelines.result import AnalysisResult, LoadContext, Notice, Segment, SourceSeries
from storage.model import Parameters

ROLE = "mr"

_FEWEST_SLICES = 5
_WIDEST_SLICES_MM, _WIDEST_PIXELS_MM = 8.0, 2.0
_SMALLEST_FIELD_MM = 80.0
#: More segments than this no report can show.
_MOST_TUMOURS = 99
#: Shapes on which ways to run the network are compared.
_PROBES = ((1, 1, 64, 128), (2, 1, 192, 128))


@dataclass(frozen=True, slots=True, kw_only=True)
class TumourModel:
    """What `load` makes and `run` needs."""

    network: Engine
    manifest: Manifest


def load(context: LoadContext) -> TumourModel:
    """Build the network and put its weights on the device."""
    if context.weights is None:
        raise WeightsError("The pipeline mr_spine_tumor needs weights; name them in its manifest.")
    network = load_network(context.weights, context.device)
    return TumourModel(
        network=compile_network(network, context.device, _PROBES), manifest=context.manifest
    )


def load_network(weights: Path, device: str) -> nn.Module:
    """Read weights (any float type) into a network of float32 in eval mode.

    Raises
    ------
    WeightsError
        When they are not this network's.
    """
    network = Penn2d()
    state = {name: value.float() for name, value in safetensors.torch.load_file(weights).items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{weights} holds the weights of another network; install those of this version."
        ) from error
    return network.to(device).eval()


def run(
    model: TumourModel, inputs: Mapping[str, SourceSeries], parameters: Parameters
) -> AnalysisResult:
    """Segment and measure vertebrae and tumours of a contrast-enhanced T1-weighted series.

    Raises
    ------
    Refused
        `not-t1-weighted`, `contrast-absent`, `contrast-unknown`, `fat-suppressed`, `too-few-slices`,
        `spacing-too-wide`,
        `field-too-small` or `no-spine`.
    """
    source = inputs[ROLE]
    volume = source.volume
    sequence = check_sequence(
        source.datasets,
        require_contrast=bool(parameters["require_contrast"]),
        fat_suppressed=bool(parameters["fat_suppressed"]),
    )
    check_series(volume)
    found = segment_spine(
        model.network,
        volume,
        float(parameters["smallest_tumour_ml"]),
        mirror=bool(parameters["mirror"]),
    )
    if not found.array.any():
        raise Refused("No vertebra was found in the series.", code="no-spine")
    numbers, count = number_tumours(found)
    too_many = count > _MOST_TUMOURS
    if too_many:
        numbers[numbers > _MOST_TUMOURS] = 0
        count = _MOST_TUMOURS
    vertebrae = found.array == VERTEBRAE
    labels = np.where(numbers > 0, numbers + 1, vertebrae).astype(np.uint8)
    evaluations, notices = statements(volume, found.array, count, sequence)
    return AnalysisResult(
        role=ROLE,
        label_map=volume.with_array(labels),
        segments=segments_of(model.manifest, count),
        measurements=(
            *measure_all(volume, vertebrae, numbers, count),
            *measure_tumours(volume, vertebrae, numbers, count),
        ),
        evaluations=evaluations,
        notices=(*notices, *((_too_many(),) if too_many else ())),
    )


def segments_of(manifest: Manifest, count: int) -> tuple[Segment, ...]:
    """Return the vertebrae, and each tumour by itself; without one, an empty segment says that it was looked for."""
    vertebrae, tumour = manifest.segments
    labels = [f"{tumour.label} {number}" for number in range(1, count + 1)] or [tumour.label]
    return (
        Segment(number=1, spec=vertebrae, label=vertebrae.label),
        *(Segment(number=n, spec=tumour, label=label) for n, label in enumerate(labels, start=2)),
    )


def check_series(volume: Volume) -> None:
    """Refuse a geometry that the pipeline is not made for.

    Parameters
    ----------
    volume
        Axes (slice, row, column), affine LPS in mm; slices in any direction.

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
    between, *pixels = (float(value) for value in volume.spacing)
    if between > _WIDEST_SLICES_MM or max(pixels) > _WIDEST_PIXELS_MM:
        raise Refused(
            f"Slices lie {between:.1f} mm apart and pixels {max(pixels):.1f} mm; {_WIDEST_SLICES_MM:.0f} mm and "
            f"{_WIDEST_PIXELS_MM:.0f} mm are the limits.",
            code="spacing-too-wide",
        )
    shortest = min(n * step for n, step in zip(volume.shape[1:], pixels, strict=True))
    if shortest < _SMALLEST_FIELD_MM:
        raise Refused(
            f"The field of view is {shortest:.0f} mm in one direction; {_SMALLEST_FIELD_MM:.0f} mm are needed.",
            code="field-too-small",
        )


def _too_many() -> Notice:
    return Notice(
        code="too-many-tumours",
        message=f"More than {_MOST_TUMOURS} tumours were found: the smallest are left out, look at the images.",
    )
