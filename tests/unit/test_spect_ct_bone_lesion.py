"""The lesion pipeline: which network for which images, lesions where they are, typed and measured, or a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import volumes
from highdicom import Volume
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from torch import nn

from pipelines.errors import Refused, WeightsError
from pipelines.evidence.create import create_evidence
from pipelines.evidence.request import EvidenceRequest, check_result
from pipelines.manifest import read_manifest
from pipelines.result import AnalysisResult, SourceSeries
from pipelines.series import read_series
from pipelines.spect_ct_bone_lesion import grids
from pipelines.spect_ct_bone_lesion.networks import SLICES, Engines, Inputs, LesionNetworks
from pipelines.spect_ct_bone_lesion.pipeline import LesionModel, load_networks, run
from pipelines.spect_ct_bone_lesion.preprocessing import normalise_spect, typical_counts
from pipelines.spect_ct_bone_lesion.training import crop
from pipelines.spect_ct_bone_lesion.uptake import suv_factor
from pipelines.training.data.dataset import find_cases
from pipelines.training.export import export_weights
from pipelines.training.phantoms.dicom import SeriesOptions, ct_series
from pipelines.training.phantoms.spect_dicom import SPECT_SERIES, nm_image, of_study
from storage.model import Parameters

MANIFEST = read_manifest(Path(__file__).parents[2] / "pipelines" / "spect_ct_bone_lesion")
PARAMETERS: Parameters = {"mirror": True}
#: Counts and HU of the body and of what lies in it.
FLESH, BONE, HOT, WARM = 20, 60, 900, 400
DENSE_HU, BONE_HU = 1100, 400
#: Middles of a hot place without sclerosis, and of a warm one with it, mm.
METASTASIS, ARTHROSIS = np.array([-30.0, 10.0, 20.0]), np.array([35.0, 20.0, -20.0])
#: The middle of a hot place that no bone is near to, mm.
URINE = np.array([20.0, -30.0, 25.0])


class Reader(nn.Module):
    """A network that needs no training: hot is a metastasis; dense, or merely warm, is benign."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        nothing = torch.zeros_like(image[:, :1])
        hot, dense = nothing - 6.0, nothing - 6.0
        if self.inputs is not Inputs.CT:
            counts = image[:, SLICES // 2, None]
            hot = (counts - 2.2) * 20
            dense = (1.0 - (counts - 1.8).abs() * 3) * 10
        if self.inputs is not Inputs.SPECT:
            dense = torch.maximum(dense, (image[:, -1 - SLICES // 2, None] - 1.6) * 20)
        return torch.cat([nothing, hot, dense], dim=1)


def _points(volume: Volume) -> np.ndarray:
    indices = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    placed = volume.affine[:3, :3] @ indices.reshape(-1, 3).T + volume.affine[:3, 3:]
    return np.asarray(placed.T.reshape(*volume.shape, 3))


def _volume(shape: tuple[int, int, int], spacing: tuple[float, ...], orientation: str) -> Volume:
    empty = Volume.from_components(
        np.zeros(shape, np.int16),
        spacing=spacing,
        coordinate_system="PATIENT",
        center_position=(0, 10, 0),
        patient_orientation="FPL",
    )
    return empty.to_patient_orientation(orientation)


def _spect(orientation: str = "FPL", *, lesions: bool = True, urine: bool = False) -> Volume:
    volume = _volume((30, 50, 60), (4.4, 4.4, 4.4), orientation)
    points = _points(volume)
    array = np.where(np.hypot(points[..., 0] / 110, (points[..., 1] - 10) / 80) < 1, FLESH, 0)
    array[np.hypot(points[..., 0], points[..., 1] - 45) < 20] = BONE
    if lesions:
        array[np.linalg.norm(points - METASTASIS, axis=-1) < 13] = HOT
        array[np.linalg.norm(points - ARTHROSIS, axis=-1) < 13] = WARM
    if urine:
        array[np.linalg.norm(points - URINE, axis=-1) < 13] = HOT
    return volume.with_array(array.astype(np.int16))


def _ct(orientation: str = "FPL", *, lesions: bool = True) -> Volume:
    volume = _volume((40, 90, 120), (3.3, 2.4, 2.2), orientation)
    points = _points(volume)
    body = np.hypot(points[..., 0] / 110, (points[..., 1] - 10) / 80) < 1
    array = np.where(body, 40, -1000)
    array[np.hypot(points[..., 0], points[..., 1] - 45) < 20] = BONE_HU
    if lesions:
        from_metastasis = np.linalg.norm(points - METASTASIS, axis=-1)
        array[(from_metastasis > 15) & (from_metastasis < 20)] = BONE_HU  # marrow in its cortex
        array[np.linalg.norm(points - ARTHROSIS, axis=-1) < 13] = DENSE_HU
    return volume.with_array(array.astype(np.int16))


def _read(
    folder: Path,
    orientations: tuple[str, str] = ("FPL", "FPL"),
    *,
    lesions: bool = True,
    urine: bool = False,
) -> dict[str, SourceSeries]:
    """Both series through DICOM."""
    options = SeriesOptions(study_description="SPECT/CT")
    ct = ct_series(_ct(orientations[1], lesions=lesions), seed=1, options=options)
    spect = _spect(orientations[0], lesions=lesions, urine=urine)
    nm = nm_image(spect, seed=1, options=of_study(SPECT_SERIES, options))
    files = []
    for number, ds in enumerate([nm, *ct]):
        files.append(folder / f"{number:03d}.dcm")
        ds.save_as(files[-1], enforce_file_format=True)
    return {"spect": read_series(files[:1]), "ct": read_series(files[1:])}


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, SourceSeries]:
    return _read(tmp_path)


@pytest.fixture(scope="module")
def model() -> LesionModel:
    networks = LesionNetworks((4, 4, 4, 4))
    networks.spect, networks.ct, networks.spect_ct = (Reader(inputs) for inputs in Inputs)  # type: ignore[assignment]
    return LesionModel(engines=Engines(networks, "cpu"), manifest=MANIFEST)


def _said(result: AnalysisResult, number: int | None) -> dict[str, float]:
    """Code value (and derivation) -> value, of one segment or of the whole."""
    return {
        item.name.value + (f" {item.derivation.meaning}" if item.derivation else ""): item.value
        for item in result.measurements
        if item.segment_number == number
    }


def _notices(result: AnalysisResult) -> set[str]:
    return {notice.code for notice in result.notices}


def _centre(labels: Volume, number: int) -> np.ndarray:
    at = np.argwhere(labels.array == number)
    return np.asarray(labels.map_indices_to_reference(at.astype(float)).mean(axis=0))


# -- what is found ------------------------------------------------------------------------------


@pytest.mark.parametrize("orientations", [("FPL", "FPL"), ("HAL", "FPR"), ("LFP", "HPL")])
def test_each_lesion_is_a_segment_where_it_is_typed_and_measured(
    tmp_path: Path, model: LesionModel, orientations: tuple[str, str]
) -> None:
    sources = _read(tmp_path, orientations)
    result = run(model, sources, PARAMETERS)

    check_result(result, sources["spect"])
    assert result.role == "spect"
    labels = {segment.label: segment for segment in result.segments}
    assert sorted(labels) == ["Benign bone lesion 1", "Bone metastasis 1"]
    metastasis, arthrosis = labels["Bone metastasis 1"], labels["Benign bone lesion 1"]
    assert metastasis.spec.number == 1
    for segment, place in ((metastasis, METASTASIS), (arthrosis, ARTHROSIS)):
        assert np.linalg.norm(_centre(result.label_map, segment.number) - place) < 2.0
    said = _said(result, metastasis.number)
    ball = 4 / 3 * np.pi * 1.3**3
    assert said["118565006"] == pytest.approx(ball, rel=0.35)
    assert said["110821 Maximum"] == HOT
    assert said["126039 Maximum"] == pytest.approx(HOT / BONE, rel=0.02)
    assert said["112031 Mean"] == pytest.approx(40, abs=60)
    assert said["111047"] > 70
    benign = _said(result, arthrosis.number)
    assert benign["112031 Mean"] == pytest.approx(DENSE_HU, rel=0.25)
    assert benign["111047"] < 30
    whole = _said(result, None)
    assert (whole["246206008"], whole["NUM-METASTASES"], whole["NUM-BENIGN"]) == (2, 1, 1)
    assert whole["VOL-METASTASES"] == pytest.approx(said["118565006"])
    assert _notices(result) == {"uptake-uncalibrated"}
    answers = {item.segment_number: item.value.meaning for item in result.evaluations}
    assert answers == {metastasis.number: "Malignant", arthrosis.number: "Benign"}


def test_spect_alone_is_said_and_measures_no_attenuation(
    sources: dict[str, SourceSeries], model: LesionModel
) -> None:
    result = run(model, {"spect": sources["spect"]}, PARAMETERS)
    assert result.role == "spect"
    assert len(result.segments) == 2
    assert {"without-ct", "uptake-uncalibrated"} == _notices(result)
    for segment in result.segments:
        said = _said(result, segment.number)
        assert "112031 Mean" not in said
        assert "126039 Maximum" not in said
        assert "110821 Mean" in said


def test_ct_alone_lies_on_the_ct(sources: dict[str, SourceSeries], model: LesionModel) -> None:
    result = run(model, {"ct": sources["ct"]}, PARAMETERS)
    check_result(result, sources["ct"])
    assert result.role == "ct"
    (segment,) = result.segments
    assert segment.label == "Benign bone lesion 1"
    assert np.linalg.norm(_centre(result.label_map, 1) - ARTHROSIS) < 1.5
    assert set(_said(result, 1)) == {"118565006", "112031 Mean", "111047"}
    assert _notices(result) == {"without-spect"}


def test_what_is_hot_outside_bone_is_said_and_no_lesion(tmp_path: Path, model: LesionModel) -> None:
    sources = _read(tmp_path, urine=True)
    both = run(model, sources, PARAMETERS)
    assert sorted(s.label for s in both.segments) == ["Benign bone lesion 1", "Bone metastasis 1"]
    assert "outside-bone" in _notices(both)
    alone = run(model, {"spect": sources["spect"]}, PARAMETERS)
    assert len(alone.segments) == 3
    assert "outside-bone" not in _notices(alone)


def test_where_ct_does_not_reach_hot_places_stay_lesions(
    tmp_path: Path, model: LesionModel
) -> None:
    sources = _read(tmp_path, urine=True)
    ct = sources["ct"].volume
    slices = np.arange(ct.shape[0])[:, None] * np.array([1, 0, 0])
    low = np.flatnonzero(ct.map_indices_to_reference(slices)[:, 2] < 5)
    short = replace(sources["ct"], volume=ct[low[0] : low[-1] + 1])
    result = run(model, {**sources, "ct": short}, PARAMETERS)
    assert len(result.segments) == 3
    assert "outside-bone" not in _notices(result)


class Blinkered(Reader):
    """Sees no lesion on the patient's right."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = super().forward(image)
        logits[:, 1:, :, : image.shape[-1] // 2] = -6.0
        return logits


def test_what_a_network_sees_on_one_side_only_is_seen_on_both_in_a_mirror(
    sources: dict[str, SourceSeries],
) -> None:
    networks = LesionNetworks((4, 4, 4, 4))
    networks.spect_ct = Blinkered(Inputs.BOTH)  # type: ignore[assignment]
    blinkered = LesionModel(engines=Engines(networks, "cpu"), manifest=MANIFEST)
    one = run(blinkered, sources, {"mirror": False})
    assert [segment.label for segment in one.segments] == ["Benign bone lesion 1"]
    both = run(blinkered, sources, PARAMETERS)
    assert [segment.spec.number for segment in both.segments] == [1, 2]


def test_no_lesion_is_a_measured_zero(tmp_path: Path, model: LesionModel) -> None:
    sources = _read(tmp_path, lesions=False)
    result = run(model, sources, PARAMETERS)
    check_result(result, sources["spect"])
    assert result.segments == ()
    assert set(_said(result, None).values()) == {0.0}
    assert len(_said(result, None)) == 4
    assert "no-lesion" in _notices(result)


# -- what is refused ----------------------------------------------------------------------------


def _refusal(model: LesionModel, inputs: Mapping[str, SourceSeries]) -> str:
    with pytest.raises(Refused) as refused:
        run(model, inputs, PARAMETERS)
    return str(refused.value.code)


def _with(source: SourceSeries, volume: Volume) -> SourceSeries:
    return replace(source, volume=volume)


def test_what_it_is_not_made_for_is_refused(
    sources: dict[str, SourceSeries], model: LesionModel
) -> None:
    spect, ct = sources["spect"], sources["ct"]
    few = _with(spect, spect.volume[:9])
    assert _refusal(model, {"spect": few}) == "too-few-slices"
    apart = ct.volume.affine.copy()
    apart[:3, 0] *= 4
    wide = Volume(array=ct.volume.array, affine=apart, coordinate_system="PATIENT")
    assert _refusal(model, {"ct": _with(ct, wide)}) == "spacing-too-wide"
    dark = _with(spect, spect.volume.with_array(np.zeros_like(spect.volume.array)))
    assert _refusal(model, {"spect": dark, "ct": ct}) == "no-counts"
    moved = ct.volume.affine.copy()
    moved[:3, 3] += (0, 0, 120)
    elsewhere = Volume(array=ct.volume.array, affine=moved, coordinate_system="PATIENT")
    assert _refusal(model, {"spect": spect, "ct": _with(ct, elsewhere)}) == "partner-elsewhere"


def test_frames_of_reference_are_demanded_by_the_manifest() -> None:
    assert MANIFEST.inputs["ct"].same_frame_as == "spect"
    assert all(spec.optional for spec in MANIFEST.inputs.values())


# -- evidence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", [("spect", "ct"), ("ct",)])
def test_evidence_says_each_lesion_once(
    sources: dict[str, SourceSeries],
    model: LesionModel,
    roles: tuple[str, ...],
    evidence_request: EvidenceRequest,
) -> None:
    inputs = {role: sources[role] for role in roles}
    result = run(model, inputs, PARAMETERS)
    request = replace(
        evidence_request, manifest=MANIFEST, source=inputs[result.role], result=result
    )
    made = {item.kind: dcmread(BytesIO(item.encoded)) for item in create_evidence(request)}
    seg = made["SEG"]
    assert len(seg.ReferencedSeriesSequence) == 1
    assert [item.SegmentLabel for item in seg.SegmentSequence] == [
        segment.label for segment in result.segments
    ]
    types = {
        item.SegmentLabel.rsplit(" ", 1)[0]: item.SegmentedPropertyTypeCodeSequence[0].CodeValue
        for item in seg.SegmentSequence
    }
    assert (
        types.items() <= {"Bone metastasis": "94222008", "Benign bone lesion": "52988006"}.items()
    )
    schemes = {
        item.CodingSchemeDesignator for item in made["SR"].CodingSchemeIdentificationSequence
    }
    assert schemes == {"99OSTEONODE"}


def test_own_labelled_spect_brings_its_ct_to_training(
    tmp_path: Path,
    sources: dict[str, SourceSeries],
    model: LesionModel,
    evidence_request: EvidenceRequest,
) -> None:
    """What the pipeline says, as its SEG beside the images, is a labelled study again."""
    result = run(model, sources, PARAMETERS)
    request = replace(evidence_request, manifest=MANIFEST, result=result)
    (tmp_path / "labels.dcm").write_bytes(create_evidence(request)[0].encoded)
    (ref,) = find_cases(tmp_path, MANIFEST).cases
    case = ref.load()
    np.testing.assert_array_equal(case.image.array, sources["spect"].volume.array)
    np.testing.assert_array_equal(case.partners["ct"].array, sources["ct"].volume.array)
    for segment in result.segments:
        np.testing.assert_array_equal(
            case.labels.array == segment.spec.number, result.label_map.array == segment.number
        )
    cut = crop(case, np.random.default_rng(0))
    assert cut.image.shape == cut.labels.shape == cut.partners["ct"].shape
    assert cut.image.spacing[1] == pytest.approx(grids.PIXEL_MM, rel=0.02)


@pytest.fixture
def evidence_request(sources: dict[str, SourceSeries]) -> EvidenceRequest:
    spec = volumes.make_spec(1)
    source = sources["spect"]
    empty = source.volume.with_array(np.zeros(source.volume.shape, np.uint8))
    return volumes.make_request(
        source, specs=[spec], result=volumes.make_result(source, [spec], empty), parameters={}
    )


# -- uptake -------------------------------------------------------------------------------------


def _mapping(unit: str, slope: float) -> Dataset:
    item, code = Dataset(), Dataset()
    item.RealWorldValueSlope, item.RealWorldValueIntercept = slope, 0.0
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", unit
    item.MeasurementUnitsCodeSequence = [code]
    return item


def _calibrated() -> Dataset:
    """100 kg, 600 MBq of technetium, three hours before."""
    ds = Dataset()
    ds.RealWorldValueMappingSequence = [_mapping("Bq/ml", 50.0)]
    ds.PatientWeight = 100
    ds.AcquisitionDate, ds.AcquisitionTime = "20260105", "120000"
    given, nuclide = Dataset(), Dataset()
    nuclide.CodeValue = codes.cid18._99mTechnetium.value
    given.RadionuclideCodeSequence = [nuclide]
    given.RadionuclideTotalDose = 600
    given.RadiopharmaceuticalStartTime = "090000"
    ds.RadiopharmaceuticalInformationSequence = [given]
    return ds


def test_suv_is_that_of_the_definition() -> None:
    left = 600e6 * 0.5 ** (3 / 6.0067)
    assert suv_factor(_calibrated()) == pytest.approx(50.0 * 100e3 / left, rel=1e-6)
    ready = Dataset()
    ready.RealWorldValueMappingSequence = [_mapping("{SUVbw}g/ml", 0.01)]
    assert suv_factor(ready) == 0.01


def test_an_injection_before_midnight_is_of_the_day_before() -> None:
    ds = _calibrated()
    ds.AcquisitionTime = "010000"
    ds.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartTime = "220000"
    assert suv_factor(ds) == pytest.approx(suv_factor(_calibrated()), rel=1e-6)


@pytest.mark.parametrize(
    "missing",
    ["PatientWeight", "AcquisitionTime", "RealWorldValueMappingSequence"],
)
def test_there_is_no_suv_where_something_is_missing(missing: str) -> None:
    ds = _calibrated()
    del ds[missing]
    assert suv_factor(ds) is None


@pytest.mark.parametrize(
    "missing",
    ["RadionuclideTotalDose", "RadionuclideCodeSequence", "RadiopharmaceuticalStartTime"],
)
def test_there_is_no_suv_where_the_dose_is_not_known(missing: str) -> None:
    ds = _calibrated()
    del ds.RadiopharmaceuticalInformationSequence[0][missing]
    assert suv_factor(ds) is None


def test_calibrated_uptake_is_measured_as_suv(
    sources: dict[str, SourceSeries], model: LesionModel
) -> None:
    for ds in sources["spect"].datasets:
        ds.RealWorldValueMappingSequence = [_mapping("{SUVbw}g/ml", 0.01)]
    result = run(model, sources, PARAMETERS)
    maxima = [_said(result, segment.number)["126401 Maximum"] for segment in result.segments]
    assert max(maxima) == pytest.approx(HOT / 100)
    assert _notices(result) == set()


# -- parts --------------------------------------------------------------------------------------


def test_counts_are_relative_to_the_patients_own() -> None:
    counts = _spect().array.astype(np.float32)
    once = normalise_spect(counts, typical_counts(counts))
    ten = normalise_spect(10 * counts, typical_counts(10 * counts))
    np.testing.assert_allclose(once, ten, atol=1e-5)
    assert typical_counts(np.zeros((3, 4, 4))) == 1.0


def test_a_full_bladder_does_not_decide_what_is_typical() -> None:
    counts = _spect(lesions=False).array.astype(np.float32)
    bladder = counts.copy()
    bladder[:, 18:32, 20:34] = 60 * FLESH
    assert (bladder != counts).mean() > 0.05
    assert typical_counts(bladder) == pytest.approx(typical_counts(counts), rel=0.05)


def test_a_partner_comes_onto_the_grid_by_geometry() -> None:
    """What is dense in CT lies where SPECT is warm, whatever the order of its axes."""
    grid = grids.to_network(_spect("HAL"))
    for orientation in ("FPL", "RHA", "PLF"):
        moved = grids.onto(grid, _ct(orientation), grids.AIR_HU)
        dense = np.argwhere(moved.array > 800)
        centre = grid.map_indices_to_reference(dense.astype(float)).mean(axis=0)
        assert np.linalg.norm(centre - ARTHROSIS) < 1.0


def test_a_network_is_compiled_when_it_is_needed_and_once(
    sources: dict[str, SourceSeries],
) -> None:
    engines = Engines(LesionNetworks((4, 4, 4, 4)).eval(), "cpu")
    fresh = LesionModel(engines=engines, manifest=MANIFEST)
    assert engines.ready == ()
    run(fresh, {"ct": sources["ct"]}, PARAMETERS)
    assert engines.ready == (Inputs.CT,)
    first = engines.of(Inputs.CT)
    run(fresh, {"ct": sources["ct"]}, PARAMETERS)
    assert engines.of(Inputs.CT) is first
    run(fresh, sources, PARAMETERS)
    assert engines.ready == (Inputs.CT, Inputs.BOTH)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export_weights(nn.Linear(2, 2), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError):
        load_networks(tmp_path / "other.safetensors")
    networks = LesionNetworks()
    export_weights(networks, tmp_path / "own.safetensors")
    loaded = load_networks(tmp_path / "own.safetensors")
    assert not loaded.training
    torch.testing.assert_close(loaded.ct.head.weight, networks.ct.head.weight, rtol=1e-3, atol=1e-4)
