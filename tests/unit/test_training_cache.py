"""Crops that are drawn once: the same whoever draws them, and never both learned from and looked at."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import torch

from pipelines.errors import TrainingError
from pipelines.training.cache import CropCache
from pipelines.training.case import Case
from pipelines.training.data.dataset import DataSet
from pipelines.training.data.reference import CaseRef
from pipelines.training.options import Run, TrainOptions
from pipelines.training.recipe import Draw, Recipe
from pipelines.training.sources import OwnData, own_source, phantom_source
from pipelines.training.split import split_cases

IDENTITY = {"pipeline": "some", "atlas": {"body.nii.gz": "0123"}}


def _draw(rng: np.random.Generator) -> Case:
    image = rng.integers(-1000, 1000, (2, 8, 8)).astype(np.int16)
    affine = np.diag([1.0, 0.5, 0.5, 1.0])
    volume = hd.Volume(array=image, affine=affine, coordinate_system="PATIENT")
    labels = volume.with_array((image > 0).astype(np.uint8))
    partner = hd.Volume(
        array=rng.random((1, 2, 2), np.float32),
        affine=np.diag([2.0, 1.0, 1.0, 1.0]),
        coordinate_system="PATIENT",
    )
    return Case(
        name="drawn", image=volume, labels=labels, group="female", partners={"spect": partner}
    )


def _draw_of(_number: int) -> Draw:
    return _draw


def _pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npz")}


def test_what_is_read_is_what_was_drawn(tmp_path: Path) -> None:
    cache = CropCache(folder=tmp_path, crops=3, seed=5)
    cache.fill(_draw_of, IDENTITY, workers=0)
    drawn = _draw(np.random.default_rng([5, 0]))
    read = cache.draw_validation(np.random.default_rng(1))
    assert np.array_equal(read.image.array, drawn.image.array)
    assert np.array_equal(read.labels.array, drawn.labels.array)
    assert np.array_equal(read.image.affine, drawn.image.affine)
    assert (read.image.array.dtype, read.labels.array.dtype) == (np.int16, np.uint8)
    assert read.group == "female"
    assert list(read.partners) == ["spect"]
    assert np.array_equal(read.partners["spect"].array, drawn.partners["spect"].array)
    assert np.array_equal(read.partners["spect"].affine, drawn.partners["spect"].affine)


def test_several_processes_draw_the_same_and_a_cache_goes_on_where_it_was(tmp_path: Path) -> None:
    CropCache(folder=tmp_path / "one", crops=6).fill(_draw_of, IDENTITY, workers=0)
    CropCache(folder=tmp_path / "two", crops=2).fill(_draw_of, IDENTITY, workers=0)
    before = (tmp_path / "two" / "crop-000000.npz").stat().st_mtime_ns
    CropCache(folder=tmp_path / "two", crops=6).fill(_draw_of, IDENTITY, workers=2)
    assert (tmp_path / "two" / "crop-000000.npz").stat().st_mtime_ns == before
    assert len(_pictures(tmp_path / "one")) == 6
    assert _pictures(tmp_path / "one").keys() == _pictures(tmp_path / "two").keys()
    for name in _pictures(tmp_path / "one"):
        with np.load(tmp_path / "one" / name) as one, np.load(tmp_path / "two" / name) as two:
            assert np.array_equal(one["arr_0"], two["arr_0"])


@pytest.mark.parametrize("crops", [2, 20, 21, 45])
def test_no_crop_is_both_learned_from_and_looked_at(tmp_path: Path, crops: int) -> None:
    cache = CropCache(folder=tmp_path, crops=crops)
    cache.fill(_draw_of, IDENTITY, workers=0)
    rng = np.random.default_rng(0)
    learned = {cache.draw(rng).name for _ in range(40 * crops)}
    looked_at = {cache.draw_validation(rng).name for _ in range(40 * crops)}
    assert not learned & looked_at
    assert len(learned) + len(looked_at) == crops


def test_a_folder_of_other_crops_is_refused(tmp_path: Path) -> None:
    CropCache(folder=tmp_path, crops=2).fill(_draw_of, IDENTITY, workers=0)
    with pytest.raises(TrainingError, match="another --cache"):
        CropCache(folder=tmp_path, crops=2, seed=1).fill(_draw_of, IDENTITY, workers=0)
    with pytest.raises(TrainingError, match="ask for more"):
        CropCache(folder=tmp_path, crops=1).fill(_draw_of, IDENTITY, workers=0)


def _recipe(folder: Path) -> Recipe:
    return Recipe(
        folder=folder / "some",
        make_network=lambda _widths: torch.nn.Identity(),
        make_loss=lambda: torch.nn.functional.mse_loss,
        phantom_crops=lambda _folder: _draw,
        phantom_study=lambda _folder: lambda _seed: _draw(np.random.default_rng(0)),
        crop=lambda case, _rng: case,
        prepare=lambda _case, _rng: (torch.zeros(1), torch.zeros(1)),
        segment=lambda _network, image, _variant: image,
        structures={1: "bone"},
    )


def test_crops_of_a_stage_are_of_no_other_and_of_no_other_teacher(tmp_path: Path) -> None:
    teacher, other = tmp_path / "teacher", tmp_path / "other"
    teacher.write_bytes(b"one")
    other.write_bytes(b"another")
    recipe = replace(_recipe(tmp_path), stage="volume", teacher=teacher)
    options = TrainOptions(out=tmp_path / "out", cache=tmp_path / "cache", phantoms=2, workers=0)
    run = Run(name="", widths=None, epochs=1, fold=None, seed=0)
    phantom_source(recipe, options, run, compared=False)
    phantom_source(recipe, options, run, compared=False)
    for changed in (replace(recipe, stage="full"), replace(recipe, teacher=other)):
        with pytest.raises(TrainingError, match="something else"):
            phantom_source(changed, options, run, compared=False)


def test_own_studies_are_read_once_for_all_parts_of_a_cross_validation(tmp_path: Path) -> None:
    loads: list[int] = []

    def ref_of(number: int) -> CaseRef:
        def load() -> Case:
            loads.append(number)
            case = _draw(np.random.default_rng(number))
            image = np.full(case.image.spatial_shape, number, np.int16)
            return replace(case, image=case.image.with_array(image))

        return CaseRef(name=f"study-{number}", subject=f"patient-{number}", load=load)

    refs = tuple(ref_of(number) for number in range(4))
    split = split_cases(refs, folds=2, test_share=0.0, seed=0)
    own = OwnData(data=DataSet(kind="NIfTI", cases=refs), split=split, fingerprint="0123")
    recipe = replace(
        _recipe(tmp_path), crop=lambda case, rng: replace(case, group=str(rng.random()))
    )
    options = TrainOptions(out=tmp_path / "out", data=tmp_path, cache=tmp_path / "cache", workers=0)
    seen: list[set[int]] = []
    for fold in (0, 1):
        run = Run(name="", widths=None, epochs=1, fold=fold, seed=0)
        source = own_source(recipe, options, own, run)
        rng = np.random.default_rng(1)
        learned = [source.draw(rng) for _ in range(60)]
        looked_at = {int(source.draw_validation(rng).image.array.max()) for _ in range(30)}
        assert len({case.group for case in learned}) > recipe.crops_per_case
        assert not {int(case.image.array.max()) for case in learned} & looked_at
        seen.append(looked_at)
    assert seen[0] | seen[1] == {0, 1, 2, 3}
    assert loads == [0, 1, 2, 3]
    with pytest.raises(TrainingError, match="something else"):
        own_source(recipe, options, replace(own, fingerprint="4567"), run)


def test_a_file_that_is_no_crop_is_named(tmp_path: Path) -> None:
    cache = CropCache(folder=tmp_path, crops=2)
    cache.fill(_draw_of, IDENTITY, workers=0)
    shutil.copy(tmp_path / "cache.json", tmp_path / "crop-000000.npz")
    with pytest.raises(TrainingError, match=r"crop-000000\.npz is no crop"):
        cache.draw_validation(np.random.default_rng(0))
