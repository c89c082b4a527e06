"""One run from files to evidence, without a node; and the same in a worker's hands."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicomgen import Geometry, make_series, save_all
from pydicom import Dataset, dcmread
from tasks import INSTALLATION, PIPELINES, STARTED_AT, make_task

from node.demo_study import write_demo_study
from node.worker import WorkerSetup, perform_task
from pipelines.errors import InputError, ManifestError, PipelineError, Refused
from pipelines.performing import PerformRequest, choose_device, has_gpu, perform, refuse
from pipelines.registry import LoadedPipeline, load_pipeline, read_entry
from storage.archive import Archive
from storage.errors import ArchiveError

WORKITEM_UID = "2.25.987654321"


@pytest.fixture
def threshold_bone() -> LoadedPipeline:
    return load_pipeline(read_entry(PIPELINES / "threshold_bone"), "cpu")


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., PerformRequest]:
    def make(datasets: list[Dataset] | None = None, **parameters: Any) -> PerformRequest:
        paths = save_all(make_series() if datasets is None else datasets, tmp_path / "series")
        return PerformRequest(
            workitem_uid=WORKITEM_UID,
            inputs={"ct": tuple(paths)},
            parameters=parameters,
            started_at=STARTED_AT,
            installation=INSTALLATION,
        )

    return make


def _returning(loaded: LoadedPipeline, change: Callable[[Any], Any]) -> LoadedPipeline:
    """The same pipeline, with its result changed."""

    class _Changed:
        def load(self, context: Any) -> Any:
            return None

        def run(self, model: Any, inputs: Any, parameters: Any) -> Any:
            return change(loaded.pipeline.run(model, inputs, parameters))

    return replace(loaded, pipeline=_Changed())


# -- a good run -----------------------------------------------------------------------------------


def test_a_run_brings_everything(
    threshold_bone: LoadedPipeline, request_of: Callable[..., PerformRequest]
) -> None:
    datasets = make_series()

    done = perform(threshold_bone, request_of(datasets))

    assert [item.kind for item in done.evidence] == ["SEG", "SR"]
    assert {str(item.ds.StudyInstanceUID) for item in done.evidence} == {
        str(datasets[0].StudyInstanceUID)
    }
    assert done.sources["ct"].volume.spatial_shape == (4, 16, 16)
    assert done.result.label_map.array.sum() == 4 * 45
    assert list(done.timings) == ["load", "infer", "encode"]
    assert all(seconds >= 0 for seconds in done.timings.values())
    volume, mean = done.measurements
    assert (volume.concept_value, volume.concept_scheme) == ("118565006", "SCT")
    assert volume.value == pytest.approx(4 * 45 * 1.5 * 1.5 * 3 / 1000)
    assert volume.series_instance_uid == str(datasets[0].SeriesInstanceUID)
    assert volume.study_instance_uid == str(datasets[0].StudyInstanceUID)
    assert (volume.workitem_uid, volume.measured_at) == (WORKITEM_UID, STARTED_AT)
    assert (volume.pipeline, volume.pipeline_version) == ("threshold_bone", "1.0.0")
    assert (volume.segment_number, volume.segment_label) == (1, "Bone")
    assert mean.concept_meaning == "Attenuation Coefficient (Mean)"
    assert mean.unit == "[hnsf'U]"


def test_parameters_are_merged(
    threshold_bone: LoadedPipeline, request_of: Callable[..., PerformRequest]
) -> None:
    done = perform(threshold_bone, request_of(threshold_hu=701))

    assert done.result.label_map.array.sum() == 0
    assert [notice.code for notice in done.notices] == ["no-bone"]
    assert [item.kind for item in done.evidence] == ["SR"]


# -- what is refused ------------------------------------------------------------------------------


def test_a_wrong_parameter_is_refused_before_anything_is_read(
    threshold_bone: LoadedPipeline, request_of: Callable[..., PerformRequest]
) -> None:
    request = replace(request_of(level=3), inputs={"ct": (Path("/no/such/file"),)})

    with pytest.raises(ManifestError, match="threshold_hu") as caught:
        perform(threshold_bone, request)

    assert caught.value.code == "parameter-unknown"


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({}, "input-role-missing"),
        ({"ct": ()}, "input-role-missing"),
        ({"ct": (), "mr": ()}, "input-role-unknown"),
    ],
)
def test_roles_must_be_those_of_the_manifest(
    threshold_bone: LoadedPipeline,
    request_of: Callable[..., PerformRequest],
    inputs: dict[str, tuple[Path, ...]],
    code: str,
) -> None:
    with pytest.raises(InputError, match=r"'(ct|mr)'") as caught:
        perform(threshold_bone, replace(request_of(), inputs=inputs))

    assert caught.value.code == code


@pytest.fixture
def pair(tmp_path: Path) -> tuple[LoadedPipeline, PerformRequest]:
    """PET and CT, and a pipeline that needs neither."""
    entry = read_entry(PIPELINES / "hot_bone")
    files: dict[str, list[Path]] = {"ct": [], "pet": []}
    for path in write_demo_study(entry, tmp_path / "pair"):
        files["ct" if dcmread(path).Modality == "CT" else "pet"].append(path)
    request = PerformRequest(
        workitem_uid=WORKITEM_UID,
        inputs={role: tuple(paths) for role, paths in files.items()},
        parameters={},
        started_at=STARTED_AT,
        installation=INSTALLATION,
    )
    return load_pipeline(entry, "cpu"), request


def test_both_inputs_reach_the_pipeline(pair: tuple[LoadedPipeline, PerformRequest]) -> None:
    done = perform(*pair)

    assert list(done.sources) == ["pet", "ct"]
    assert done.notices == ()
    # Of four hot columns one lies outside of the bone.
    assert done.result.label_map.array.sum() == 2 * 4 * 3
    report = next(item.ds for item in done.evidence if item.kind == "SR")
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    referenced = {item.SeriesInstanceUID for item in study.ReferencedSeriesSequence}
    of_inputs = {source.datasets[0].SeriesInstanceUID for source in done.sources.values()}
    assert of_inputs < referenced


LACKS = (
    ("slices-missing", "1 of 9 places on its grid has no slice."),
    ("instances-missing", "PACS has 11 instances of it, here are 8."),
)


def test_a_run_on_a_series_with_a_gap_says_so_first(
    threshold_bone: LoadedPipeline, request_of: Callable[..., PerformRequest]
) -> None:
    datasets = make_series(geometry=Geometry(slices=9))
    del datasets[3]
    request = request_of(datasets)
    with pytest.raises(InputError) as refused:
        perform(threshold_bone, request)
    assert refused.value.code == "input-missing-slices"

    done = perform(threshold_bone, replace(request, lacks=LACKS))

    assert done.sources["ct"].volume.spatial_shape[0] == 5
    assert [notice.code for notice in done.notices] == ["slices-missing", "instances-missing"]
    assert done.notices[1].message == LACKS[1][1]
    seg, report = done.evidence
    referenced = seg.ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    of_run = {str(ds.SOPInstanceUID) for ds in datasets[3:]}
    assert {str(item.ReferencedSOPInstanceUID) for item in referenced} <= of_run
    assert done.notices[0].message.encode() in report.encoded


@pytest.mark.parametrize(("given", "absent"), [("pet", "ct"), ("ct", "pet")])
def test_a_run_without_an_optional_input_says_so(
    pair: tuple[LoadedPipeline, PerformRequest], given: str, absent: str
) -> None:
    loaded, request = pair

    done = perform(loaded, replace(request, inputs={given: request.inputs[given]}))

    assert list(done.sources) == [given]
    assert [notice.code for notice in done.notices] == ["input-absent"]
    assert f"without the input {absent!r} (" in done.notices[0].message
    report = next(item.encoded for item in done.evidence if item.kind == "SR")
    assert done.notices[0].message.encode() in report


def test_one_input_is_needed_always(pair: tuple[LoadedPipeline, PerformRequest]) -> None:
    with pytest.raises(InputError, match="'pet' or 'ct'") as caught:
        perform(pair[0], replace(pair[1], inputs={"pet": ()}))

    assert caught.value.code == "input-role-missing"


@pytest.mark.parametrize("frame", ["1.2.3", ""])
def test_inputs_of_different_frames_of_reference_are_refused(
    pair: tuple[LoadedPipeline, PerformRequest], frame: str
) -> None:
    for path in pair[1].inputs["ct"]:
        ds = dcmread(path)
        ds.FrameOfReferenceUID = frame
        ds.save_as(path)

    with pytest.raises(Refused, match="different Frame of Reference UIDs") as caught:
        perform(*pair)

    assert caught.value.code == "input-other-frame-of-reference"


def test_another_modality_is_refused(
    threshold_bone: LoadedPipeline, request_of: Callable[..., PerformRequest]
) -> None:
    datasets = make_series()
    for ds in datasets:
        ds.Modality = "MR"

    with pytest.raises(Refused, match="takes Modality CT, not MR") as caught:
        perform(threshold_bone, request_of(datasets))

    assert caught.value.code == "input-modality"


def test_too_few_slices_are_refused(
    tmp_path: Path, request_of: Callable[..., PerformRequest]
) -> None:
    folder = tmp_path / "threshold_bone"
    shutil.copytree(PIPELINES / "threshold_bone", folder)
    manifest = folder / "pipeline.toml"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace("min_instances = 2", "min_instances = 20"), encoding="utf-8")

    with pytest.raises(Refused, match="needs 20 instances; the series has 4"):
        perform(load_pipeline(read_entry(folder), "cpu"), request_of())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda result: None, "NoneType"),
        (lambda result: replace(result, role="mr"), "'mr'"),
        (lambda result: replace(result, segments=()), "value 1"),
        (
            lambda result: replace(
                result, measurements=(replace(result.measurements[0], value=float("nan")),)
            ),
            "Volume.*nan",
        ),
        (
            lambda result: replace(
                result, measurements=(replace(result.measurements[0], segment_number=7),)
            ),
            "segment 7",
        ),
        (
            lambda result: replace(
                result, label_map=result.label_map.with_array(np.zeros((4, 16, 16), np.float32))
            ),
            "float32",
        ),
        (lambda result: replace(result, label_map=result.label_map[::-1]), "grid"),
    ],
    ids=["none", "role", "segments", "nan", "segment", "dtype", "flipped"],
)
def test_a_result_that_breaks_the_contract_is_refused(
    threshold_bone: LoadedPipeline,
    request_of: Callable[..., PerformRequest],
    change: Callable[[Any], Any],
    told: str,
) -> None:
    with pytest.raises(ManifestError, match=told) as caught:
        perform(_returning(threshold_bone, change), request_of())

    assert caught.value.code == "result-invalid"


def test_a_crash_in_the_pipelines_code_is_told_without_its_text(
    request_of: Callable[..., PerformRequest],
) -> None:
    buggy = load_pipeline(read_entry(PIPELINES / "buggy"), "cpu")

    with pytest.raises(PipelineError, match=r"ValueError at pipeline\.py:\d+\.$") as caught:
        perform(buggy, request_of(bug="raise"))

    assert "Patient" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


def test_the_device_is_the_one_asked_for() -> None:
    assert choose_device("cuda:1") == "cuda:1"


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_without_a_gpu_the_cpu_is_chosen() -> None:
    assert choose_device() == "cpu"


# -- in a worker's hands --------------------------------------------------------------------------


def test_an_archive_elsewhere_is_copied_for_the_run_only(tmp_path: Path) -> None:
    setup = WorkerSetup(device="cpu", scratch=tmp_path / "scratch")
    task = make_task(f"memory://{tmp_path.name}")

    outcome = perform_task(task, setup)

    assert [evidence.kind for evidence in outcome.evidence] == ["SEG", "SR"]
    assert all(Archive(task.archive_url).exists(e.archive_key) for e in outcome.evidence)
    assert list(setup.scratch.iterdir()) == []


def test_a_local_archive_is_read_in_place(tmp_path: Path) -> None:
    local = make_task(str(tmp_path / "archive"))
    remote = make_task(f"memory://{tmp_path.name}")
    setup = WorkerSetup(device="cpu", scratch=tmp_path / "scratch")

    here, there = perform_task(local, setup), perform_task(remote, setup)

    assert [e.digest for e in here.evidence] == [e.digest for e in there.evidence]


def test_a_refused_run_is_reported_without_running(tmp_path: Path) -> None:
    datasets = make_series()
    task = replace(
        make_task(str(tmp_path / "archive"), datasets=datasets),
        refusal=("input-modality", "It is no CT."),
    )
    outcome = perform_task(task, WorkerSetup(device="cpu", scratch=tmp_path))
    (report,) = outcome.evidence
    assert (report.kind, report.profiles) == ("SR", ("generic",))
    with Archive(task.archive_url).open(report.archive_key) as file:
        ds = dcmread(file)
    assert ds.StudyInstanceUID == datasets[0].StudyInstanceUID
    assert "It is no CT." in str(ds)
    assert outcome.measurements == ()


def test_files_that_cannot_be_read_are_left_out_of_a_refusals_report(
    threshold_bone: LoadedPipeline, request_of: Callable[..., PerformRequest]
) -> None:
    request = request_of()
    first, *others = request.inputs["ct"]
    first.write_bytes(b"no DICOM")
    manifest = threshold_bone.entry.manifest
    report = refuse(manifest, request, "input-unreadable", "It cannot be read.").ds
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert len(series.ReferencedSOPSequence) == len(others)
    for path in others:
        path.unlink()
    with pytest.raises(InputError, match="whose study it is"):
        refuse(manifest, request, "input-unreadable", "It cannot be read.")


def test_a_loaded_pipeline_is_kept(tmp_path: Path) -> None:
    setup = WorkerSetup(device="cpu", scratch=tmp_path)

    first = setup.load(PIPELINES / "threshold_bone")

    assert setup.load(PIPELINES / "threshold_bone") is first
    assert setup.load(PIPELINES / "sleeper") is not first


def test_only_so_many_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.worker.LOADED_AT_MOST", 1)
    setup = WorkerSetup(device="cpu", scratch=tmp_path)
    first = setup.load(PIPELINES / "threshold_bone")
    setup.load(PIPELINES / "sleeper")

    assert setup.load(PIPELINES / "threshold_bone") is not first


def test_a_key_that_is_no_key_is_the_archives_fault(tmp_path: Path) -> None:
    task = make_task(str(tmp_path / "archive"))

    with pytest.raises(ArchiveError, match="no key"):
        perform_task(
            replace(task, inputs={"ct": ("../../etc/passwd",)}),
            WorkerSetup(device="cpu", scratch=tmp_path),
        )


def test_oblique_series_pass_as_well(
    threshold_bone: LoadedPipeline, request_of: Callable[..., PerformRequest]
) -> None:
    geometry = Geometry(orientation=(0.8, 0.6, 0.0, -0.6, 0.8, 0.0), is_descending=True)

    done = perform(threshold_bone, request_of(make_series(geometry=geometry)))

    assert [item.kind for item in done.evidence] == ["SEG", "SR"]
