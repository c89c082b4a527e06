"""The skeleton pipeline: its four preprocessing steps, what it measures, refuses, and finds."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import torch

from pipelines.ct_skeleton.measuring import incompleteness, measure_bone
from pipelines.ct_skeleton.pipeline import (
    check_series,
    normalisation_of,
    run,
    segment_skeleton,
)
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
    CLIP_HU,
    THRESHOLD_HU,
    Normalisation,
    apply_threshold,
    clip,
    normalise,
    upper_bound,
)
from pipelines.ct_skeleton.stretcher import body_mask, remove_stretcher
from pipelines.errors import ManifestError, Refused
from pipelines.registry import BUILT_IN, LoadedPipeline, load_pipeline, read_entry
from pipelines.result import SourceSeries
from pipelines.training.metrics import compare
from pipelines.training.phantoms.procedural import ProceduralOptions, procedural_phantom
from pipelines.training.phantoms.render import Subject
from pipelines.training.phantoms.scanner import draw_scanner
from pipelines.training.phantoms.tables import draw_table
from pipelines.training.phantoms.tissues import Phantom, Tissue, skeleton_of

REAL_CT = Path(__file__).resolve().parents[3] / "shared" / "data" / "ct-abdomen"
PARAMETERS = {
    "normalisation": "interpatient",
    "mirror": True,
    "dense_hu": 600.0,
    "low_density_hu": 110.0,
}
#: A plain threshold, the method to be better than.
THRESHOLD_OF_OLD = 200


@pytest.fixture(scope="module")
def loaded() -> LoadedPipeline:
    torch.set_num_threads(2)
    return load_pipeline(read_entry(BUILT_IN / "ct_skeleton"), "cpu")


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    options = ProceduralOptions(slices=12, rows=200, columns=220, pixel_spacing=2, middle=110)
    return procedural_phantom(options, seed=1)


def _volume(array: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1)) -> hd.Volume:
    return hd.Volume.from_components(
        array, spacing=spacing, coordinate_system="PATIENT",
        position=(0, 0, 0), patient_orientation="FPL",
    )  # fmt: skip


# -- preprocessing, in its order ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_stretcher_of_any_design_is_removed_and_the_patient_stays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    options = ProceduralOptions(
        slices=3, rows=200, columns=250, pixel_spacing=2, slice_spacing=40,
        slice_thickness=5, middle=(20.0, 180.0, 420.0)[seed % 3],
    )  # fmt: skip
    scanner = replace(draw_scanner(rng), table=draw_table(rng), circle=None, calibrated=False)
    phantom = procedural_phantom(options, seed=seed, subject=Subject(scanner=scanner))
    image, body = phantom.image, body_mask(phantom.image)
    truth = phantom.tissues.array != Tissue.AIR
    bone = skeleton_of(phantom.tissues).array > 0
    assert body.array[bone].all()
    assert 2 * (body.array & truth).sum() / (body.array.sum() + truth.sum()) > 0.98
    alone = remove_stretcher(image, body)
    assert alone.array.dtype == image.array.dtype
    # Of all that is denser than foam outside of the body, all but a rim in contact is air now.
    stuff = (image.array > -500) & ~truth
    assert (alone.array[stuff] == -1000).mean() > 0.8 or stuff.sum() < 500


def test_empty_images_have_no_body() -> None:
    assert not body_mask(_volume(np.full((3, 60, 60), -1024, np.int16))).array.any()


def test_threshold_clip_and_normalisation_map_their_bounds() -> None:
    image = np.asarray([-3024, -1000, THRESHOLD_HU, 0, CLIP_HU, 3071], np.float32)
    ready = clip(apply_threshold(image))
    assert ready.tolist() == [-200, -200, -200, 0, 1200, 1200]
    np.testing.assert_allclose(normalise(ready, CLIP_HU)[[0, 2, 4, 5]], [-1, -1, 1, 1])
    assert normalise(np.asarray([500], np.float32), CLIP_HU)[0] == pytest.approx(0.0)


def test_intrapatient_range_is_the_patients() -> None:
    image = np.full(10_000, THRESHOLD_HU, np.float32)
    image[:5000] = np.linspace(0, 800, 5000)
    assert upper_bound(image, Normalisation.INTERPATIENT) == CLIP_HU
    assert upper_bound(image, Normalisation.INTRAPATIENT) == pytest.approx(796, abs=1)
    # A body without bone is not stretched until its muscle looks like bone.
    soft = np.linspace(0, 60, 1000, dtype=np.float32)
    assert upper_bound(soft, Normalisation.INTRAPATIENT) == 300
    assert upper_bound(image[5000:], Normalisation.INTRAPATIENT) == CLIP_HU


def test_unknown_normalisation_names_those_that_exist() -> None:
    assert normalisation_of({"normalisation": "intrapatient"}) is Normalisation.INTRAPATIENT
    with pytest.raises(ManifestError, match="interpatient, intrapatient"):
        normalisation_of({"normalisation": "z-score"})


# -- refusals, measurements, flags ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "spacing", "orientation", "code"),
    [
        ((9, 8, 8), (5, 1, 1), "FPL", "too-few-slices"),
        ((20, 8, 8), (5, 1, 1), "PFL", "not-axial"),
        ((20, 8, 8), (5, 1, 1), "RFP", "not-axial"),
        ((20, 8, 8), (10.5, 1, 1), "FPL", "spacing-too-wide"),
    ],
)
def test_refuses_with_a_code_and_a_sentence(
    shape: tuple[int, ...], spacing: tuple[float, ...], orientation: str, code: str
) -> None:
    volume = hd.Volume.from_components(
        np.zeros(shape, np.int16), spacing=spacing, coordinate_system="PATIENT",
        position=(0, 0, 0), patient_orientation=orientation,
    )  # fmt: skip
    with pytest.raises(Refused) as refused:
        check_series(volume)
    assert refused.value.code == code
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize("orientation", ["FPL", "HPL", "FAR", "HAL"])
def test_any_axial_order_is_taken(orientation: str) -> None:
    check_series(
        hd.Volume.from_components(
            np.zeros((10, 8, 8), np.int16),
            spacing=(10, 1, 1),
            coordinate_system="PATIENT",
            position=(0, 0, 0),
            patient_orientation=orientation,
        )
    )


def test_measurements_of_known_bone() -> None:
    image = np.zeros((10, 10, 10), np.int16)
    image[4, :, :] = np.arange(100).reshape(10, 10) * 10  # 0 to 990 HU
    skeleton = np.zeros(image.shape, np.uint8)
    skeleton[4] = 1
    spacing = (5.0, 2.0, 2.0)
    measured = measure_bone(_volume(image, spacing), _volume(skeleton, spacing), PARAMETERS)
    values = {(m.derivation or m.name).meaning: (m.value, m.unit.value) for m in measured}
    assert values["Volume"] == (pytest.approx(2.0), "mL")
    assert values["Mean"] == (pytest.approx(495), "[hnsf'U]")
    assert values["Standard Deviation"][0] == pytest.approx(image[4].std())
    assert values["5th Percentile Value of population"][0] == pytest.approx(49.5)
    assert values["Median Value of population"][0] == pytest.approx(495)
    assert values["95th Percentile Value of population"][0] == pytest.approx(940.5)
    assert values["Fraction of dense bone"] == (pytest.approx(40.0), "%")
    assert values["Fraction of low density bone"] == (pytest.approx(11.0), "%")
    assert all(m.segment_number == 1 for m in measured)


def test_no_bone_is_a_measured_zero() -> None:
    nothing = _volume(np.zeros((10, 10, 10), np.uint8))
    (volume,) = measure_bone(
        nothing.with_array(nothing.array.astype(np.int16)), nothing, PARAMETERS
    )
    assert (volume.name.meaning, volume.value) == ("Volume", 0.0)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ((0, 5, 5), "first or last slice"),
        ((9, 5, 5), "first or last slice"),
        ((5, 0, 5), "border"),
        ((5, 5, 9), "border"),
        ((5, 5, 5), None),
    ],
)
def test_a_cut_skeleton_is_said_to_be_incomplete(
    place: tuple[int, int, int], said: str | None
) -> None:
    mask = np.zeros((10, 10, 10), np.uint8)
    mask[place] = 1
    cut = incompleteness(_volume(mask))
    if said is None:
        assert not cut.evaluations
        assert not cut.notices
    else:
        (evaluation,) = cut.evaluations
        assert evaluation.value.value == "130576"
        assert cut.notices[0].code == "skeleton-incomplete"
        assert said in cut.notices[0].message


def test_specks_go_and_ribs_stay() -> None:
    mask = np.zeros((10, 40, 40), np.uint8)
    mask[2:8, 5:15, 5:15] = 1
    mask[2, 30:33, 30:33] = 1  # 9 voxels of 5 cubic millimetres
    mask[7, 15, 15] = 1  # touches by a corner
    kept = remove_specks(_volume(mask, (5, 1, 1))).array
    assert kept.sum() == 601
    assert not kept[2, 30:33, 30:33].any()
    nothing = _volume(np.zeros((3, 3, 3), np.uint8))
    assert not remove_specks(nothing).array.any()


def test_an_implant_is_no_bone_and_a_tooth_stays() -> None:
    image = np.full((10, 40, 40), 300, np.int16)
    image[2:8, 5:15, 5:15] = 3071  # 0.6 mL of metal
    image[2:4, 25:35, 25:35] = 2800  # 0.2 mL of enamel
    mask = np.ones(image.shape, np.uint8)
    kept = remove_metal(_volume(mask), _volume(image)).array
    np.testing.assert_array_equal(kept == 0, image == 3071)
    none = _volume(np.full((3, 3, 3), 300, np.int16))
    assert remove_metal(_volume(np.ones((3, 3, 3), np.uint8)), none).array.all()


def test_one_dense_slice_between_bone_is_bone_and_a_disc_is_not() -> None:
    image = np.full((5, 4, 4), 300, np.int16)
    image[2, :, :2] = 90  # disc
    mask = np.ones((5, 4, 4), np.uint8)
    mask[2] = 0
    bridged = bridge_slices(_volume(mask, (3, 1, 1)), _volume(image, (3, 1, 1))).array
    assert bridged[2, :, 2:].all()
    assert not bridged[2, :, :2].any()
    far = bridge_slices(_volume(mask, (3.5, 1, 1)), _volume(image, (3.5, 1, 1))).array
    np.testing.assert_array_equal(far, mask)
    mask[3] = 0  # two slices are no gap in one
    two = bridge_slices(_volume(mask, (3, 1, 1)), _volume(image, (3, 1, 1))).array
    np.testing.assert_array_equal(two, mask)


def test_small_holes_are_filled_and_the_spinal_canal_is_not() -> None:
    mask = np.zeros((2, 60, 60), np.uint8)
    mask[:, 10:50, 10:50] = 1
    mask[:, 20:34, 20:34] = 0  # 196 mm2
    mask[0, 40:45, 40:48] = 0  # 40 mm2
    mask[1, 45:, 20:25] = 0  # open to the outside
    filled = fill_small_holes(_volume(mask)).array
    assert filled[0, 40:45, 40:48].all()
    filled[0, 40:45, 40:48] = 0
    np.testing.assert_array_equal(filled, mask)
    nothing = _volume(np.zeros((2, 5, 5), np.uint8))
    assert not fill_small_holes(nothing).array.any()


def test_neighbouring_slices_say_what_a_ring_of_bone_holds() -> None:
    mask = np.zeros((7, 60, 120), np.uint8)
    image = np.full(mask.shape, 40, np.int16)
    mask[:, 10:50, 10:50] = 1
    mask[3, 20:40, 20:40] = 0  # marrow that one slice leaves out
    mask[:, 10:50, 60:100] = 1
    mask[:, 20:40, 70:90] = 0  # a canal ...
    mask[4, 20:40, 70:90] = 1  # ... that one slice takes for marrow
    heeded = heed_neighbours(_volume(mask), _volume(image)).array
    assert heeded[3, 20:40, 20:40].all()
    assert not heeded[:, 20:40, 70:90].any()
    assert (heeded[:, 10:50, 10:50] > 0).all()
    image[4, 20:40, 70:90] = 300  # dense: a bridge of bone
    assert heed_neighbours(_volume(mask), _volume(image)).array[4, 20:40, 70:90].all()
    apart = _volume(mask, (8, 1, 1))
    np.testing.assert_array_equal(heed_neighbours(apart, _volume(image, (8, 1, 1))).array, mask)


def test_marrow_without_a_cortex_towards_other_slices_is_none() -> None:
    mask = np.zeros((20, 60, 120), np.uint8)
    image = np.full(mask.shape, 40, np.int16)
    mask[:, 5:55, 5:55] = 1  # a skull, as long as the image ...
    image[:, 5:55, 5:55] = 800
    mask[:, 10:50, 10:50] = 0  # ... around a brain
    image[:, 10:50, 10:50] = 30
    mask[2:18, 10:40, 70:110] = 1  # a body of marrow with its cortex
    image[[2, 17], 10:40, 70:110] = 700
    right = mask.copy()
    mask[8:12, 15:40, 15:45] = 1  # a part of the brain that a few slices take for marrow
    closed = remove_open_marrow(_volume(mask), _volume(image)).array
    np.testing.assert_array_equal(closed, right)
    # Thicker, or cut by the end of the image, or dense: who knows.
    for thing, kept in ((np.s_[3:17], 2.0), (np.s_[:4], 1.0), (np.s_[16:], 1.0)):
        mask = right.copy()
        mask[thing, 15:40, 15:45] = 1
        spacing = (kept, 1.0, 1.0)
        left = remove_open_marrow(_volume(mask, spacing), _volume(image, spacing)).array
        np.testing.assert_array_equal(left, mask)
    image[8:12, 15:40, 15:45] = 300
    mask = right.copy()
    mask[8:12, 15:40, 15:45] = 1
    np.testing.assert_array_equal(remove_open_marrow(_volume(mask), _volume(image)).array, mask)
    nothing = _volume(np.zeros_like(mask))
    np.testing.assert_array_equal(remove_open_marrow(nothing, nothing).array, nothing.array)


def test_marrow_enclosed_on_all_sides_is_filled_and_sinus_and_canal_are_not() -> None:
    mask = np.zeros((40, 90, 190), np.uint8)
    image = np.full(mask.shape, 30, np.int16)
    mask[2:38, 5:75, 2:90] = 1
    marrow, sinus = np.s_[5:20, 10:40, 10:30], np.s_[5:20, 10:40, 40:60]
    canal, large = np.s_[2:38, 50:65, 10:30], np.s_[4:36, 10:65, 100:150]
    mask[marrow] = mask[sinus] = mask[canal] = 0
    mask[2:38, 5:75, 95:160] = 1
    mask[large] = 0  # 88 mL
    image[sinus] = -900
    filled = fill_cavities(_volume(mask), _volume(image)).array
    assert filled[marrow].all()
    filled[marrow] = 0
    np.testing.assert_array_equal(filled, mask)
    for value in (0, 1):
        plain = _volume(np.full((2, 5, 5), value, np.uint8))
        np.testing.assert_array_equal(fill_cavities(plain, plain).array, plain.array)


# -- the whole pipeline ---------------------------------------------------------------------------


def test_phantom_is_segmented_on_its_own_grid(loaded: LoadedPipeline, phantom: Phantom) -> None:
    source = SourceSeries(volume=phantom.image, datasets=())
    result = run(loaded.model, {"ct": source}, PARAMETERS)
    assert result.label_map.geometry_equal(phantom.image)
    assert result.label_map.array.dtype == np.uint8
    assert [segment.label for segment in result.segments] == ["Skeleton"]
    assert compare(result.label_map, skeleton_of(phantom.tissues)).dice > 0.8
    assert result.notices[0].code == "skeleton-incomplete"


@pytest.mark.parametrize("axes", [(0,), (1, 2), (2,)])
def test_row_and_column_order_do_not_matter(
    loaded: LoadedPipeline, phantom: Phantom, axes: tuple[int, ...]
) -> None:
    part = phantom.image[3:5]
    segment = partial(
        segment_skeleton, loaded.model.network, normalisation=Normalisation.INTERPATIENT
    )
    straight, turned = segment(part), segment(part.flip_spatial(axes))
    np.testing.assert_array_equal(turned.flip_spatial(axes).array, straight.array)


def test_a_series_without_a_body_is_refused(loaded: LoadedPipeline) -> None:
    air = _volume(np.full((10, 64, 64), -1000, np.int16))
    with pytest.raises(Refused) as refused:
        run(loaded.model, {"ct": SourceSeries(volume=air, datasets=())}, PARAMETERS)
    assert refused.value.code == "no-body"


def test_real_ct_bones_are_found_and_table_and_contrast_are_not(loaded: LoadedPipeline) -> None:
    """Facts of TCGA-OV that hold by eye: where the table lies, and what is no bone."""
    paths = sorted(REAL_CT.glob("*.dcm"))
    if not paths:
        pytest.skip(f"no real CT at {REAL_CT}")
    every_eighth = paths[4::8]
    volume = hd.get_volume_from_series([pydicom.dcmread(path) for path in every_eighth])
    volume = volume.with_array(volume.array.astype(np.int16))

    body = body_mask(volume)
    solid = volume.array > -200
    below = np.zeros(solid.shape, bool)
    below[:, 412:, :] = True  # the table's shells lie behind row 412, the patient before it
    assert solid[below].sum() > 1000
    assert not body.array[below].any()

    found = segment_skeleton(loaded.model.network, volume, Normalisation.INTERPATIENT).array > 0
    threshold = volume.array > THRESHOLD_OF_OLD
    assert threshold[below].sum() > 100
    assert not found[below].any()
    # Marrow: the inside of bones that a threshold leaves out.
    assert (found & ~threshold).sum() > 0.2 * found.sum()
    # Cortex: nearly all that is very dense inside of the body is bone here (there is no metal).
    cortex = (volume.array > 500) & body.array
    assert found[cortex].mean() > 0.95
