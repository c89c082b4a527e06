"""Trunk muscles in CT: vertebral levels are found coarsely, then sixteen muscles are segmented and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from highdicom import Volume

from pipelines.ct_trunk_muscle.measuring import measure
from pipelines.ct_trunk_muscle.networks import Part, load_networks
from pipelines.ct_trunk_muscle.plan import PLAN_NAME, NetworkPlan, read_plan
from pipelines.ct_trunk_muscle.segmenting import Networks, segment_trunk
from pipelines.errors import ManifestError, Refused, WeightsError
from pipelines.inference import compile_network
from pipelines.inference.grid import put_back
from pipelines.manifest import Manifest
from pipelines.result import AnalysisResult, LoadContext, Segment, SourceSeries
from storage.model import Parameters

ROLE = "ct"

_FEWEST_SLICES = 10
_WIDEST_SPACING_MM = 10.0
_WIDEST_PIXEL_MM = 3.0
#: Less than this in the slices shows no trunk; less than this along the patient no vertebra between two others, mm.
_SMALLEST_FIELD_MM, _SHORTEST_MM = 150.0, 60.0
#: Between the slices' normal and the patient's long axis, degrees.
_STEEPEST = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrunkModel:
    """What `load` makes and `run` needs."""

    #: Compiled when first asked for: of slices or of volumes.
    networks: Callable[[Part], Networks]
    manifest: Manifest


def load(context: LoadContext) -> TrunkModel:
    """Read the plan, build its networks and put their weights on the device.

    Raises
    ------
    WeightsError
        Without weights, without a plan, or when they are not of each other.
    """
    if context.weights is None:
        raise WeightsError("The pipeline ct_trunk_muscle needs weights; name them in its manifest.")
    plan = read_plan(context.folder / PLAN_NAME)
    networks = load_networks(context.weights, plan, context.device)
    levels = compile_network(networks.levels, context.device, _probes(plan.levels))

    @cache
    def chosen(part: Part) -> Networks:
        one_patch = ((1, 1, *plan.volume.patch),)
        probes = _probes(plan.slices) if part is Part.SLICES else one_patch
        compiled = compile_network(networks.get_submodule(part), context.device, probes)
        return Networks(muscles=compiled, part=part, levels=levels, plan=plan)

    return TrunkModel(networks=chosen, manifest=context.manifest)


def _probes(plan: NetworkPlan) -> tuple[tuple[int, ...], ...]:
    """Two small shapes: the size of the trunk varies."""
    side = plan.multiples[0]
    if len(plan.patch) == 2:
        return (1, 1, side, 2 * side), (2, 1, 2 * side, 3 * side)
    return (1, 1, 2 * side, side, 2 * side), (1, 1, side, 2 * side, 3 * side)


def run(
    model: TrunkModel, inputs: Mapping[str, SourceSeries], parameters: Parameters
) -> AnalysisResult:
    """Segment and measure the trunk muscles of a CT series.

    Raises
    ------
    Refused
        `too-few-slices`, `spacing-too-wide`, `not-axial`, `field-too-small` or `no-trunk`.
    """
    part = part_of(parameters)
    source = inputs[ROLE]
    check_series(source.volume)
    trunk = segment_trunk(model.networks(part), source.volume, mirror=bool(parameters["mirror"]))
    said = measure(trunk, source.datasets[0] if source.datasets else None)
    return AnalysisResult(
        role=ROLE,
        label_map=put_back(trunk.labels, source.volume),
        segments=tuple(
            Segment(number=spec.number, spec=spec, label=spec.label)
            for spec in model.manifest.segments
        ),
        measurements=said.measurements,
        evaluations=said.evaluations,
        notices=said.notices,
    )


def part_of(parameters: Parameters) -> Part:
    """Return which network segments muscles.

    Raises
    ------
    ManifestError
        `parameter-invalid`.
    """
    name = str(parameters["network"])
    if name not in (Part.SLICES, Part.VOLUME):
        raise ManifestError(
            f"Parameter 'network' is {Part.SLICES} or {Part.VOLUME}, not {name!r}.",
            code="parameter-invalid",
        )
    return Part(name)


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
    slices = volume.shape[0]
    between, *pixel = (float(value) for value in volume.spacing)
    if slices < _FEWEST_SLICES:
        raise Refused(
            f"The series has {slices} slices; at least {_FEWEST_SLICES} are needed.",
            code="too-few-slices",
        )
    if between > _WIDEST_SPACING_MM + 0.01 or max(pixel) > _WIDEST_PIXEL_MM:
        raise Refused(
            f"The slices lie {between:.1f} mm apart and pixels {max(pixel):.1f} mm; {_WIDEST_SPACING_MM:.0f} mm "
            f"and {_WIDEST_PIXEL_MM:.0f} mm are the limits.",
            code="spacing-too-wide",
        )
    normal = np.asarray(volume.unit_vectors()[0])
    angle = float(np.degrees(np.arccos(np.clip(abs(normal[2]), 0, 1))))
    if angle > _STEEPEST:
        raise Refused(
            f"The slices are turned {angle:.0f} degrees from axial; {_STEEPEST:.0f} are the limit.",
            code="not-axial",
        )
    field = min(n * size for n, size in zip(volume.shape[1:], pixel, strict=True))
    if field < _SMALLEST_FIELD_MM or slices * between < _SHORTEST_MM:
        raise Refused(
            f"The field of view is {field:.0f} mm in the slices and {slices * between:.0f} mm along the patient; "
            f"{_SMALLEST_FIELD_MM:.0f} mm and {_SHORTEST_MM:.0f} mm are needed.",
            code="field-too-small",
        )
