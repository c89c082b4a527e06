"""What comes of an evaluation: summaries, table, model card, pictures; weights that are put to use."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from highdicom import Volume
from matplotlib.image import imread

from pipelines.ct_skeleton.training import RECIPE
from pipelines.errors import ManifestError, Refused, TrainingError, WeightsError
from pipelines.manifest import read_manifest
from pipelines.networks.unet2d import UNet2d
from pipelines.registry import BUILT_IN, check_weights, read_entry
from pipelines.training.assess import ALL_STRUCTURES, assess, summaries_of
from pipelines.training.case import Case, Found
from pipelines.training.evaluate import evaluate
from pipelines.training.export import export_weights
from pipelines.training.install import edit_manifest, install_weights
from pipelines.training.loop import Progress
from pipelines.training.metrics import summarise
from pipelines.training.options import EvaluateOptions, EvaluateReport
from pipelines.training.plots import BLAND_ALTMAN, DICE, WORST, draw_plots
from pipelines.training.progress import _bar, counted, watched
from pipelines.training.recipe import Recipe
from pipelines.training.report import BEGIN, END, evaluation_markdown, put_into_card

TWO: Recipe = replace(RECIPE, structures={1: "left", 2: "right"})


def _labels(*boxes: tuple[int, int, int]) -> Volume:
    """Boxes of (value, first column, last column)."""
    array = np.zeros((12, 20, 20), np.uint8)
    for value, first, last in boxes:
        array[2:10, 5:15, first:last] = value
    return Volume(array=array, affine=np.diag([2.0, 1, 1, 1]), coordinate_system="PATIENT")


def _case(name: str, group: str, *boxes: tuple[int, int, int]) -> Case:
    labels = _labels(*boxes)
    return Case(
        name=name,
        image=labels.with_array(labels.array.astype(np.int16) * 300),
        labels=labels,
        group=group,
    )


CASES = (
    _case("a", "female", (1, 2, 8), (2, 12, 18)),
    _case("b", "male", (1, 2, 8)),
    _case("c", "male", (1, 2, 7), (2, 12, 18)),
    _case("d", "male", (2, 12, 18)),
)


def _found(image: Volume) -> Volume:
    """The truth, one column short; the left structure of `c` missed; a right one made up in `b`."""
    array = (image.array // 300).astype(np.uint8)
    array[..., 2] = 0
    if (array == 1).sum() == 8 * 10 * 4:
        array[array == 1] = 0
    if not (array == 2).any():
        array[3:5, 6:8, 15] = 2
    return image.with_array(array)


def _find(case: Case) -> Found:
    return Found(labels=_found(case.image))


@pytest.fixture
def report(tmp_path: Path) -> EvaluateReport:
    torch.manual_seed(0)
    export_weights(UNet2d(), tmp_path / "weights.safetensors")
    recipe = replace(
        TWO,
        segment=lambda network, image, variant: _found(image),
        phantom_study=lambda folder: lambda seed: CASES[seed],
        references={"nothing": lambda image: image.with_array(np.zeros(image.shape, np.uint8))},
    )
    options = EvaluateOptions(
        phantoms=4,
        seed=0,
        out=tmp_path,
        weights=tmp_path / "weights.safetensors",
        references=True,
    )
    return evaluate(recipe, options)


# -- figures --------------------------------------------------------------------------------------


def test_structures_that_are_not_there_are_counted_and_not_averaged() -> None:
    records = assess({"ours": _find}, CASES, TWO.structures).records
    summaries = summaries_of(records)
    left, right, together = (summaries[name] for name in ("left", "right", ALL_STRUCTURES))
    assert (left.present, left.missed, left.absent, left.invented) == (3, 1, 1, 0)
    assert (right.present, right.missed, right.absent, right.invented) == (3, 0, 0, 1)
    assert left.figures["dice"].worst == 0.0
    assert left.figures["dice"].mean == pytest.approx(2 / 3 * (2 * 5 / 11))
    assert right.figures["dice"].mean == 1.0
    assert (together.present, together.absent, together.invented) == (6, 1, 1)
    assert left.agreement["bias_ml"] == pytest.approx(-(80 + 80 + 400) * 0.002 / 3)
    nothing = summarise([])
    assert np.isnan(nothing.figures["dice"].mean)
    assert np.isnan(nothing.agreement["r2"])


def test_what_the_pipeline_refuses_is_counted_and_stops_nothing() -> None:
    def decline(case: Case) -> Found:
        if (case.image.array == 600).any():
            raise Refused("There is metal.", code="metal")
        return _find(case)

    found = assess({"ours": decline, "all": _find}, CASES, TWO.structures, judged=("ours",))
    assert found.refused == {"ours": 3, "all": 0}
    assert {r.case for r in found.records if r.variant == "ours"} == {"b"}
    assert found.worst is not None
    assert found.worst.case.name == "b"


def test_the_report_has_variants_groups_and_every_study(
    report: EvaluateReport, tmp_path: Path
) -> None:
    written = json.loads((tmp_path / "report.json").read_text())
    assert list(written["summaries"]) == ["interpatient", "intrapatient", "nothing"]
    assert written["groups"]["interpatient"]["female"]["left"]["present"] == 1
    assert written["groups"]["interpatient"]["male"]["left"]["missed"] == 1
    assert len(written["records"]) == 4 * 2 * 3
    missed = [r for r in written["records"] if r["variant"] == "nothing" and r["case"] == "a"]
    assert missed[0]["figures"]["hausdorff95_mm"] is None  # no number is null, not NaN
    assert report.worst is not None
    assert report.worst.variant == "interpatient"


def test_the_table_stands_beside_the_publication(report: EvaluateReport) -> None:
    table = evaluation_markdown(TWO, report)
    assert table.startswith("**Phantom data**: 4 studies of ")
    assert "do not compare like with like" in table
    assert "| Dice (= F1) | 0.979 | " in table
    assert "phantom data, intrapatient" in table
    left = table.partition("**left**")[2]
    assert "| studies with it (missed); without (found all the same) |  | 3 (1); 1 (0) |" in left
    assert "| male | 3 | " in table
    assert "Refused" not in table
    assert "no figure: interpatient 1." in evaluation_markdown(
        TWO, replace(report, refused={"interpatient": 1})
    )
    own = replace(report, data="own data: 4 studies of 4 patients (NIfTI)")
    assert evaluation_markdown(TWO, own).startswith("**Own data**: 4 studies of 4 patients")
    assert "like with like" not in evaluation_markdown(TWO, own)
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows if line.startswith(("| Dice (", "| IoU"))}) == 1


def test_pictures_show_something(report: EvaluateReport, tmp_path: Path) -> None:
    for name in (BLAND_ALTMAN, DICE, WORST):
        picture = imread(tmp_path / name)
        assert picture.shape[0] > 200
        assert picture[..., :3].std() > 0.02
    draw_plots(TWO, report, None, tmp_path / "without")
    assert sorted(path.name for path in (tmp_path / "without").iterdir()) == [BLAND_ALTMAN, DICE]


def test_a_model_card_takes_the_table_between_its_markers(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"# Card\n\n{BEGIN}\nold\n{END}\n\nEnd.\n")
    put_into_card("| new |\n", card)
    put_into_card("| new |\n", card)
    assert card.read_text() == f"# Card\n\n{BEGIN}\n| new |\n{END}\n\nEnd.\n"
    card.write_text("# Card\n")
    with pytest.raises(TrainingError, match="put the two lines"):
        put_into_card("", card)


def test_every_model_card_has_a_place_for_the_table() -> None:
    for recipe in BUILT_IN.glob("*/training.py"):
        card = (recipe.parent / "README.md").read_text("utf-8")
        assert card.count(BEGIN) == card.count(END) == 1, recipe.parent.name


# -- progress -------------------------------------------------------------------------------------


def test_progress_is_shown_on_a_terminal_and_elsewhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    last = Progress(step=20, done=1.0, loss=0.25, learning_rate=1e-3, seconds=4.0)
    with _bar("a run") as watch:
        watch(replace(last, step=10, done=0.5, seconds=2.0))
        watch(last)
    shown = capfd.readouterr().err
    assert "step 20  loss 0.25" in shown
    assert "5.00 steps/s" in shown
    with watched("a run", tmp_path) as watch:
        watch(last)
    assert list(counted("abc", "letters", 3)) == ["a", "b", "c"]


# -- installing -----------------------------------------------------------------------------------


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A pipeline's folder that may be written."""
    folder = tmp_path / "ct_skeleton"
    shutil.copytree(BUILT_IN / "ct_skeleton", folder)
    return folder


def test_weights_are_installed_with_a_new_version(pipeline: Path, tmp_path: Path) -> None:
    weights = tmp_path / "new.safetensors"
    digest = export_weights(UNet2d(), weights)
    before = (pipeline / "pipeline.toml").read_text()
    manifest = install_weights(RECIPE, pipeline, weights, "9.0.0")
    assert manifest == read_manifest(pipeline)
    assert manifest.version == "9.0.0"
    assert manifest.weights is not None
    assert manifest.weights.sha256 == digest
    check_weights(read_entry(pipeline))
    lines = zip(
        before.splitlines(), (pipeline / "pipeline.toml").read_text().splitlines(), strict=True
    )
    changed = [new.partition(" ")[0] for old, new in lines if old != new]
    assert changed == ["version", "sha256"]


def test_only_weights_of_this_network_and_a_higher_version_are_installed(
    pipeline: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "new.safetensors"
    export_weights(UNet2d((4, 8, 8, 8, 8)), weights)
    with pytest.raises(WeightsError, match="another network"):
        install_weights(RECIPE, pipeline, weights, "9.0.0")
    export_weights(UNet2d(), weights)
    for version in ("0.9.9", read_manifest(pipeline).version, "9.0"):
        with pytest.raises(ManifestError, match="need a higher one"):
            install_weights(RECIPE, pipeline, weights, version)
    check_weights(read_entry(pipeline))


def test_weights_of_another_pipeline_with_the_same_network_are_not_installed(
    pipeline: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "new.safetensors"
    export_weights(UNet2d(), weights, pipeline="our_vertebrae")
    with pytest.raises(WeightsError, match=r"trained as our_vertebrae, not ct_skeleton.*--init"):
        install_weights(RECIPE, pipeline, weights, "9.0.0")
    check_weights(read_entry(pipeline))
    export_weights(UNet2d(), weights, pipeline="ct_skeleton")
    assert install_weights(RECIPE, pipeline, weights, "9.0.0").version == "9.0.0"


def test_an_edit_leaves_comments_and_other_tables_alone() -> None:
    text = (
        '# a comment\nname = "x"\nversion   = "1.0.0"  # ours\n\n[other]\nversion = "1"\nsha256 = "b"\n'
        '[weights] # w\nfile = "a"\n# why\nsha256 = "c" # digest\n\n[limits]\nsha256 = "d"\n'
    )
    edited = edit_manifest(text, version="2.0.0", digest="e")
    assert edited == text.replace('"1.0.0"', '"2.0.0"').replace('"c"', '"e"')
