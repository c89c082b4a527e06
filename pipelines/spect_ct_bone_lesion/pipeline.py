"""Bone lesions in SPECT/CT: the network of the images there are finds them, types them, and each is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch

from pipelines.errors import Refused, WeightsError
from pipelines.manifest import Manifest
from pipelines.result import AnalysisResult, LoadContext, Notice, Segment, SourceSeries
from pipelines.spect_ct_bone_lesion.grids import AIR_HU, onto, overlap_share
from pipelines.spect_ct_bone_lesion.measuring import Signals, measure, state_class
from pipelines.spect_ct_bone_lesion.networks import Engines, Inputs, LesionNetworks
from pipelines.spect_ct_bone_lesion.segmenting import Images, Lesions, find_lesions
from pipelines.spect_ct_bone_lesion.uptake import suv_factor
from storage.model import Parameters

SPECT, CT = "spect", "ct"

_FEWEST_SLICES = 10
_WIDEST_SPACING_MM = 10.0
#: Less than this of a SPECT within its CT is another examination.
_SMALLEST_OVERLAP = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionModel:
    """What `load` makes and `run` needs."""

    engines: Engines
    manifest: Manifest


def load(context: LoadContext) -> LesionModel:
    """Read the weights; each network is compiled when the first study needs it."""
    if context.weights is None:
        raise WeightsError(
            "The pipeline spect_ct_bone_lesion needs weights; name them in its manifest."
        )
    return LesionModel(
        engines=Engines(load_networks(context.weights), context.device),
        manifest=context.manifest,
    )


def load_networks(weights: Path) -> LesionNetworks:
    """Read weights (any float type) into networks of float32 in eval mode.

    Raises
    ------
    WeightsError
        When they are not these networks'.
    """
    networks = LesionNetworks()
    state = {name: value.float() for name, value in safetensors.torch.load_file(weights).items()}
    try:
        networks.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{weights} holds the weights of another network; install those of this version."
        ) from error
    return networks.eval()


def run(
    model: LesionModel, inputs: Mapping[str, SourceSeries], parameters: Parameters
) -> AnalysisResult:
    """Find and measure bone lesions in SPECT, CT or both.

    Raises
    ------
    Refused
        `too-few-slices`, `spacing-too-wide`, `no-counts` or `partner-elsewhere`.
    """
    check_series(inputs)
    spect, ct = inputs.get(SPECT), inputs.get(CT)
    images = Images(spect=spect.volume if spect else None, ct=ct.volume if ct else None)
    given = Inputs.BOTH if spect and ct else Inputs.SPECT if spect else Inputs.CT
    found = find_lesions(model.engines.of(given), images, mirror=bool(parameters["mirror"]))
    signals = _signals(images, suv_factor(spect.datasets[0]) if spect else None)
    measurements, normal = measure(found, signals)
    notices = _notices(given, signals, normal, found)
    return AnalysisResult(
        role=SPECT if spect else CT,
        label_map=found.labels,
        segments=tuple(_segments(found, model.manifest)),
        measurements=tuple(measurements),
        evaluations=tuple(state_class(lesion) for lesion in found.lesions),
        notices=notices,
    )


def check_series(inputs: Mapping[str, SourceSeries]) -> None:
    """Refuse what the pipeline is not made for.

    Raises
    ------
    Refused
        With a coded reason and a sentence.
    """
    for role, source in inputs.items():
        slices, apart = source.volume.shape[0], float(source.volume.spacing[0])
        if slices < _FEWEST_SLICES:
            raise Refused(
                f"The {role.upper()} has {slices} slices; at least {_FEWEST_SLICES} are needed.",
                code="too-few-slices",
            )
        if apart > _WIDEST_SPACING_MM + 0.01:
            raise Refused(
                f"The slices of the {role.upper()} lie {apart:.1f} mm apart; {_WIDEST_SPACING_MM:.0f} mm is the limit.",
                code="spacing-too-wide",
            )
    spect, ct = inputs.get(SPECT), inputs.get(CT)
    if spect and not (spect.volume.array > 0).any():
        raise Refused("The SPECT holds no counts.", code="no-counts")
    if spect and ct:
        # That both are in one frame of reference is the manifest's `same_frame_as`.
        share = overlap_share(spect.volume, ct.volume)
        if share < _SMALLEST_OVERLAP:
            raise Refused(
                f"Only {100 * share:.0f} % of the SPECT lies within the CT; "
                f"{100 * _SMALLEST_OVERLAP:.0f} % are needed.",
                code="partner-elsewhere",
            )


def _signals(images: Images, factor: float | None) -> Signals:
    """Both images on the grid of the labels."""
    if images.spect is None or images.ct is None:
        return Signals(
            counts=None if images.spect is None else images.spect.array,
            hounsfield=None if images.ct is None else images.ct.array,
            suv_factor=factor,
        )
    upright = images.spect.to_patient_orientation("FPL")
    hounsfield = onto(upright, images.ct, AIR_HU)
    back = hounsfield.to_patient_orientation(images.spect.get_closest_patient_orientation())
    return Signals(counts=images.spect.array, hounsfield=back.array, suv_factor=factor)


def _segments(found: Lesions, manifest: Manifest) -> list[Segment]:
    """Each lesion as a segment of its own, numbered within its class."""
    malignant, benign = manifest.segments
    counts = {malignant.number: 0, benign.number: 0}
    made = []
    for lesion in found.lesions:
        spec = malignant if lesion.malignant else benign
        counts[spec.number] += 1
        made.append(
            Segment(number=lesion.number, spec=spec, label=f"{spec.label} {counts[spec.number]}")
        )
    return made


def _notices(
    given: Inputs, signals: Signals, normal: float | None, found: Lesions
) -> tuple[Notice, ...]:
    said = []
    if given is Inputs.SPECT:
        said.append(
            Notice(
                code="without-ct",
                message="Without CT lesions are found by uptake alone: no attenuation, and no ratio to normal bone.",
            )
        )
    elif given is Inputs.CT:
        said.append(
            Notice(
                code="without-spect",
                message="Without SPECT lesions are found by CT alone: no uptake.",
            )
        )
    elif normal is None:
        said.append(
            Notice(
                code="no-normal-bone",
                message="There is too little normal bone in view: no ratio of uptake to normal bone.",
            )
        )
    if signals.counts is not None and signals.suv_factor is None:
        said.append(
            Notice(
                code="uptake-uncalibrated",
                message="Uptake is in counts: the header does not tell SUV (Real World Value Mapping, weight, dose).",
            )
        )
    if found.outside_bone:
        said.append(
            Notice(
                code="outside-bone",
                message=f"Left out, for by CT they lie outside bone: {found.outside_bone} (urine, or a mass).",
            )
        )
    if not found.lesions:
        said.append(Notice(code="no-lesion", message="No bone lesion was segmented."))
    return tuple(said)
