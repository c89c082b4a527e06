"""Own labelled studies: DICOM series with SEG, NIfTI pairs; what is wrong with them is said by file and remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from highdicom import Volume
from pydicom import Dataset, dcmread
from volumes import (
    ORIENTATIONS,
    affine_of,
    make_manifest,
    make_request,
    make_result,
    make_spec,
    make_volume,
    write_series,
)

from pipelines.errors import TrainingError
from pipelines.evidence.seg import create_seg
from pipelines.manifest import CodeSpec, SegmentSpec
from pipelines.series import read_series
from pipelines.training.data.dataset import CaseCrops, check_cases, describe, find_cases
from pipelines.training.data.placing import place_labels

LEFT = CodeSpec(value="7771000", scheme="SCT", meaning="Left")
RIGHT = CodeSpec(value="24028007", scheme="SCT", meaning="Right")
SPECS = (make_spec(1, laterality=LEFT), make_spec(2, laterality=RIGHT))
MANIFEST = make_manifest(SPECS)


def _labelled_series(
    folder: Path,
    *,
    orientation: str = "axial",
    specs: tuple[SegmentSpec, ...] = SPECS,
    change: Callable[[Dataset], object] | None = None,
) -> Path:
    """A series of CT with a SEG of its two blocks, as the product makes them."""
    folder.mkdir(parents=True, exist_ok=True)
    source = read_series(write_series(folder, orientation=orientation))
    seg = create_seg(make_request(source, specs=specs))
    assert seg is not None
    if change is not None:
        change(seg)
    seg.save_as(folder / "labels.dcm", enforce_file_format=True)
    return folder


def _write_nifti(volume: Volume, path: Path, *, codes: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(volume.array)
    image.SetSpacing([float(size) for size in volume.spacing[::-1]])
    image.SetOrigin([float(x) for x in volume.position])
    image.SetDirection(np.array(volume.unit_vectors())[::-1].T.ravel().tolist())
    sitk.WriteImage(image, str(path))
    if not codes:
        raw = bytearray(path.read_bytes())
        raw[252:256] = bytes(4)  # qform_code and sform_code
        path.write_bytes(raw)
    return path


def _labels_of(volume: Volume) -> Volume:
    array = (volume.array == 400).astype(np.uint8) + 2 * (volume.array == 700).astype(np.uint8)
    return volume.with_array(array)


# -- DICOM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", list(ORIENTATIONS))
def test_segments_lie_where_they_were_drawn(tmp_path: Path, orientation: str) -> None:
    _labelled_series(tmp_path, orientation=orientation)
    data = find_cases(tmp_path, MANIFEST)
    (ref,) = data.cases
    case = ref.load()
    assert data.kind == "DICOM SEG"
    assert np.array_equal(case.labels.array == 1, case.image.array == 400)
    assert np.array_equal(case.labels.array == 2, case.image.array == 700)
    assert case.labels.dtype == np.uint8


def test_segments_are_matched_by_code_and_laterality_before_label(tmp_path: Path) -> None:
    def swap(ds: Dataset) -> None:
        ds.SegmentSequence[0].SegmentLabel = "Bone 2"
        ds.SegmentSequence[1].SegmentLabel = "something"

    case = find_cases(_labelled_series(tmp_path, change=swap), MANIFEST).cases[0].load()
    assert (case.labels.array[case.image.array == 400] == 1).all()

    def without_side(ds: Dataset) -> None:
        for item in ds.SegmentSequence:
            del item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence

    case = find_cases(_labelled_series(tmp_path, change=without_side), MANIFEST).cases[0].load()
    assert (case.labels.array[case.image.array == 700] == 2).all()


def test_a_segment_that_the_manifest_does_not_know_is_refused_or_left_out(tmp_path: Path) -> None:
    liver = CodeSpec(value="10200004", scheme="SCT", meaning="Liver")
    _labelled_series(tmp_path, specs=(SPECS[0], make_spec(2, type=liver, label="Liver")))
    with pytest.raises(
        TrainingError, match=r"labels\.dcm: segment 2, 'Liver' .*--skip-unknown"
    ) as error:
        find_cases(tmp_path, MANIFEST)
    assert error.value.code == "training-label-unknown"
    case = find_cases(tmp_path, MANIFEST, skip_unknown=True).cases[0].load()
    assert set(np.unique(case.labels.array)) == {0, 1}


def test_a_seg_without_its_images_is_refused(tmp_path: Path) -> None:
    _labelled_series(tmp_path)
    for path in tmp_path.glob("0*.dcm"):
        path.unlink()
    with pytest.raises(TrainingError, match=r"labels\.dcm: refers to the series .* add its images"):
        find_cases(tmp_path, MANIFEST)


def test_a_seg_without_reference_belongs_to_the_series_of_its_frame(tmp_path: Path) -> None:
    def change(ds: Dataset) -> None:
        del ds.ReferencedSeriesSequence

    _labelled_series(tmp_path, change=change)
    ds = dcmread(tmp_path / "labels.dcm")
    assert "ReferencedSeriesSequence" not in ds
    assert len(find_cases(tmp_path, MANIFEST).cases) == 1


def test_labels_off_the_grid_of_their_images_are_refused(tmp_path: Path) -> None:
    def shift(ds: Dataset) -> None:
        for item in ds.PerFrameFunctionalGroupsSequence:
            position = item.PlanePositionSequence[0].ImagePositionPatient
            position[0] = float(position[0]) + 0.35

    _labelled_series(tmp_path, change=shift)
    with pytest.raises(
        TrainingError, match=r"labels\.dcm: the labels do not lie .* 0\.50 voxels"
    ) as error:
        check_cases(find_cases(tmp_path, MANIFEST))
    assert error.value.code == "training-data-invalid"


def test_two_segs_of_one_structure_are_two_opinions(tmp_path: Path) -> None:
    _labelled_series(tmp_path)
    ds = dcmread(tmp_path / "labels.dcm")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    ds.save_as(tmp_path / "again.dcm")
    with pytest.raises(TrainingError, match=r"labels\.dcm and again\.dcm label the same structure"):
        find_cases(tmp_path, MANIFEST)


def test_groups_come_from_the_header_and_names_from_a_hash(tmp_path: Path) -> None:
    def sex(datasets: list[Dataset]) -> None:
        for ds in datasets:
            ds.PatientSex = "F"

    source = read_series(write_series(tmp_path, change=sex))
    seg = create_seg(make_request(source, specs=SPECS))
    assert seg is not None
    seg.save_as(tmp_path / "labels.dcm", enforce_file_format=True)
    (tmp_path / "notes.txt").write_text("no DICOM")
    data = find_cases(tmp_path, MANIFEST)
    (ref,) = data.cases
    assert ref.group == ref.load().group == "female"
    uid = str(source.datasets[0].SeriesInstanceUID)
    assert uid not in ref.name
    assert ref.name.startswith("series-")
    assert describe(data, data.cases) == "own data: 1 study of 1 patient (DICOM SEG; 1 female)"
    assert data.left_out == "1 files that are no DICOM"


def test_a_patient_is_told_by_the_id_whoever_issued_it(tmp_path: Path) -> None:
    for number, issuer in enumerate(("", "HOSPITAL")):
        folder = tmp_path / str(number)

        def issue(datasets: list[Dataset], issuer: str = issuer, number: int = number) -> None:
            for ds in datasets:
                ds.SeriesInstanceUID = f"2.25.{number + 1}"
                if issuer:
                    ds.IssuerOfPatientID = issuer

        folder.mkdir()
        source = read_series(write_series(folder, change=issue))
        seg = create_seg(make_request(source, specs=SPECS))
        assert seg is not None
        seg.save_as(folder / "labels.dcm", enforce_file_format=True)
    data = find_cases(tmp_path, MANIFEST)
    assert len(data.cases) == 2
    assert len({ref.subject for ref in data.cases}) == 1


@pytest.mark.parametrize("name", ["labels.dcm", "005.dcm"])
def test_a_dicom_file_that_is_cut_off_is_named_and_not_left_out(tmp_path: Path, name: str) -> None:
    _labelled_series(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: whole.index(b"\x20\x00\x0e\x00")])  # Series Instance UID
    with pytest.raises(TrainingError, match=rf"{name}: is cut off or broken; .* again") as error:
        find_cases(tmp_path, MANIFEST)
    assert error.value.code == "training-data-invalid"


@pytest.mark.parametrize("slices", [(6,), (1, 8), (1, 4, 9)])
def test_labels_on_some_slices_only(tmp_path: Path, slices: tuple[int, ...]) -> None:
    source = read_series(write_series(tmp_path))
    labels = _labels_of(source.volume)
    sparse = np.zeros_like(labels.array)
    sparse[list(slices)] = 2
    seg = create_seg(
        make_request(
            source,
            specs=SPECS,
            result=make_result(source, SPECS, labels.with_array(sparse)),
        )
    )
    assert seg is not None
    seg.save_as(tmp_path / "labels.dcm", enforce_file_format=True)
    case = find_cases(tmp_path, MANIFEST).cases[0].load()
    assert np.array_equal(case.labels.array, sparse)


# -- NIfTI ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["axial", "axial, feet first", "sagittal", "oblique"])
def test_nifti_pairs_lie_where_dicom_does(tmp_path: Path, orientation: str) -> None:
    volume = make_volume(orientation)
    _write_nifti(volume, tmp_path / "a_image.nii.gz")
    _write_nifti(_labels_of(volume), tmp_path / "a_label.nii.gz")
    (ref,) = find_cases(tmp_path, MANIFEST).cases
    case = ref.load()
    assert ref.name.startswith("case-")
    assert case.image.dtype == np.int16
    np.testing.assert_allclose(case.image.affine, volume.affine, atol=1e-4)
    assert np.array_equal(case.image.array, volume.array)
    assert np.array_equal(case.labels.array, make_label_map_of(case.image).array)


def make_label_map_of(image: Volume) -> Volume:
    return _labels_of(image)


def test_labels_stored_in_another_order_are_brought_onto_the_image(tmp_path: Path) -> None:
    volume = make_volume("oblique")
    flipped = _labels_of(volume).permute_spatial_axes((1, 2, 0)).flip_spatial((0, 2))
    _write_nifti(volume, tmp_path / "a_image.nii")
    _write_nifti(flipped, tmp_path / "a_label.nii")
    case = find_cases(tmp_path, MANIFEST).cases[0].load()
    assert np.array_equal(case.labels.array == 2, case.image.array == 700)


def test_labels_of_a_part_are_placed_and_labels_outside_are_refused() -> None:
    volume = make_volume("oblique")
    labels = _labels_of(volume)
    part = labels[5:, 10:20, 14:]
    placed = place_labels(part, volume, "part")
    assert np.array_equal(placed.array == 2, volume.array == 700)
    with pytest.raises(TrainingError, match="lie outside of the image"):
        place_labels(labels, volume[:4], "whole")
    coarse = Volume(
        array=labels.array, affine=affine_of("oblique") * [2, 2, 2, 1], coordinate_system="PATIENT"
    )
    with pytest.raises(
        TrainingError, match=r"voxels of 5 x 1\.6 x 1\.4 mm on an image of 2\.5 x 0\.8 x"
    ):
        place_labels(coarse, volume, "coarse")
    turned = Volume(array=labels.array, affine=affine_of("axial"), coordinate_system="PATIENT")
    with pytest.raises(TrainingError, match="turned against each other"):
        place_labels(turned, volume, "turned")


def test_nnunet_folders_with_a_table_of_names(tmp_path: Path) -> None:
    volume = make_volume()
    labels = _labels_of(volume)
    _write_nifti(volume, tmp_path / "imagesTr" / "x_0000.nii.gz")
    _write_nifti(labels.with_array(labels.array * 3), tmp_path / "labelsTr" / "x.nii.gz")
    (tmp_path / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "bone_1": 3, "Bone 2": 6}})
    )
    case = find_cases(tmp_path, MANIFEST).cases[0].load()
    assert np.array_equal(case.labels.array, labels.array)
    (tmp_path / "dataset.json").write_text(
        json.dumps({"labels": {"0": "background", "3": "liver"}})
    )
    with pytest.raises(
        TrainingError, match=r"dataset\.json: label 'liver' is none of the pipeline's"
    ):
        find_cases(tmp_path, MANIFEST)


def test_bad_nifti_is_refused_by_name(tmp_path: Path) -> None:
    volume = make_volume()
    labels = _labels_of(volume)
    _write_nifti(volume, tmp_path / "a_image.nii.gz")
    with pytest.raises(TrainingError, match=r"a_image\.nii\.gz: has no label"):
        find_cases(tmp_path, MANIFEST)
    _write_nifti(labels.with_array(labels.array + 5), tmp_path / "a_label.nii.gz")
    with pytest.raises(TrainingError, match=r"a_label\.nii\.gz: label value 5 is none of .* 1, 2"):
        find_cases(tmp_path, MANIFEST).cases[0].load()
    (tmp_path / "a_label.nii.gz").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match=r"a_label\.nii\.gz: cannot be read"):
        find_cases(tmp_path, MANIFEST).cases[0].load()
    (tmp_path / "a_label.nii.gz").unlink()
    _write_nifti(labels, tmp_path / "a_label.nii", codes=False)
    with pytest.raises(TrainingError, match=r"a_label\.nii: does not say where it lies"):
        find_cases(tmp_path, MANIFEST).cases[0].load()


def test_a_nifti_case_keeps_its_name_when_another_joins_the_folder(tmp_path: Path) -> None:
    # A finished run names what it held out: a number in the order of the files would name another study then.
    volume = make_volume()
    _write_nifti(volume, tmp_path / "b_image.nii.gz")
    _write_nifti(_labels_of(volume), tmp_path / "b_label.nii.gz")
    (before,) = find_cases(tmp_path, MANIFEST).cases
    _write_nifti(volume.with_array(volume.array + 1), tmp_path / "a_image.nii.gz")
    _write_nifti(_labels_of(volume), tmp_path / "a_label.nii.gz")
    first, second = find_cases(tmp_path, MANIFEST).cases
    assert second.name == before.name != first.name
    assert second.subject == before.subject != first.subject
    # The same images twice must not be on both sides of a split.
    _write_nifti(volume, tmp_path / "c_image.nii.gz")
    _write_nifti(_labels_of(volume), tmp_path / "c_label.nii.gz")
    assert find_cases(tmp_path, MANIFEST).cases[2].subject == second.subject


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_with_what_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    volume = make_volume()
    array = volume.array.astype(np.float32)
    array[2, 3, 4:7] = value
    _write_nifti(volume.with_array(array), tmp_path / "a_image.nii")
    _write_nifti(_labels_of(volume), tmp_path / "a_label.nii")
    with pytest.raises(TrainingError, match=r"a_image\.nii: 3 voxels are no numbers"):
        check_cases(find_cases(tmp_path, MANIFEST))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", ["image", "label"])
def test_a_nifti_file_that_is_cut_off_is_refused(tmp_path: Path, kind: str, ending: str) -> None:
    volume = make_volume()
    noisy = volume.array + np.random.default_rng(0).integers(0, 9, volume.shape).astype(np.int16)
    _write_nifti(volume.with_array(noisy), tmp_path / f"a_image{ending}")
    _write_nifti(_labels_of(volume), tmp_path / f"a_label{ending}")
    path = tmp_path / f"a_{kind}{ending}"
    whole = path.read_bytes()
    damaged = [whole[: len(whole) * 2 // 3]]
    if ending == ".nii.gz":
        third = len(whole) // 3
        damaged.append(whole[:third] + bytes(40) + whole[third + 40 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(TrainingError, match=rf"a_{kind}\{ending}: cannot be read as a volume"):
            check_cases(find_cases(tmp_path, MANIFEST))


# -- either ---------------------------------------------------------------------------------------


def test_an_empty_folder_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no labelled study: put there DICOM series"):
        find_cases(tmp_path, MANIFEST)
    with pytest.raises(TrainingError, match="there is no such folder"):
        find_cases(tmp_path / "nowhere", MANIFEST)
    write_series(tmp_path)
    with pytest.raises(TrainingError, match="1 series without SEG"):
        find_cases(tmp_path, MANIFEST)


def test_the_check_tells_everything_that_is_wrong_and_knows_data_again(tmp_path: Path) -> None:
    volume = make_volume()
    for name in "abc":
        _write_nifti(volume, tmp_path / f"{name}_image.nii")
        _write_nifti(_labels_of(volume), tmp_path / f"{name}_label.nii")
    first = check_cases(find_cases(tmp_path, MANIFEST))
    assert first == check_cases(find_cases(tmp_path, MANIFEST))
    for name in "bc":
        _write_nifti(_labels_of(volume)[:, 1:], tmp_path / f"{name}_label.nii")
    assert first == check_cases(find_cases(tmp_path, MANIFEST))  # the same voxels, a smaller file
    _write_nifti(volume, tmp_path / "b_label.nii")
    (tmp_path / "c_label.nii").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"2 of 3 .*\n.*b_label.*\n.*c_label"):
        check_cases(find_cases(tmp_path, MANIFEST))


def test_crops_come_of_all_studies_in_turn(tmp_path: Path) -> None:
    volume = make_volume()
    for name in "abcde":
        _write_nifti(volume, tmp_path / f"{name}_image.nii")
        _write_nifti(_labels_of(volume), tmp_path / f"{name}_label.nii")
    cases = find_cases(tmp_path, MANIFEST).cases
    draw = CaseCrops(cases, lambda case, rng: case, per_case=2, kept=2)
    rng = np.random.default_rng(0)
    names = [draw(rng).name for _ in range(60)]
    assert set(names) == {ref.name for ref in cases}
    again = CaseCrops(cases, lambda case, rng: case, per_case=2, kept=2)
    rng = np.random.default_rng(0)
    assert names == [again(rng).name for _ in range(60)]
