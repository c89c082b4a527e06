"""What a manifest may say, and that a bad one is named by file and key."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.errors import ManifestError
from pipelines.manifest import MANIFEST_NAME, Manifest, read_manifest

PIPELINES = Path(__file__).parent.parent / "pipelines"
GOOD = (PIPELINES / "threshold_bone" / MANIFEST_NAME).read_text(encoding="utf-8")


def _folder(parent: Path, text: str, name: str = "threshold_bone") -> Path:
    folder = parent / name
    folder.mkdir()
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return folder


def _changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.fixture
def manifest() -> Manifest:
    return read_manifest(PIPELINES / "threshold_bone")


def test_a_good_manifest_is_read(manifest: Manifest) -> None:
    assert manifest.name == "threshold_bone"
    assert manifest.inputs["ct"].modality == ("CT",)
    assert manifest.segments[0].type.to_code().value == "272673000"
    assert manifest.parameters == {"threshold_hu": 200.0}
    assert (manifest.limits.time_s, manifest.limits.memory_mb) == (60.0, 2048)
    assert manifest.weights is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (_changed('name = "threshold_bone"', 'name = "Threshold Bone"'), "name"),
        (_changed('name = "threshold_bone"', 'name = "other_name"'), "name"),
        (_changed('name = "threshold_bone"\n', ""), "name"),
        (_changed('version = "1.0.0"', 'version = "1.0"'), "version"),
        (_changed('version = "1.0.0"', "version = 1"), "version"),
        (_changed('title = "', f'title = "{"x" * 60}'), "title"),
        (_changed('family = "classical"', 'family = "magic"'), "family"),
        (_changed("[inputs.ct]", "[inputs_ct]"), "inputs"),
        (_changed('modality = ["CT"]', "modality = []"), "inputs.ct.modality"),
        (_changed("min_instances = 2", "min_instances = 0"), "inputs.ct.min_instances"),
        (_changed("min_instances = 2", "min_slices = 2"), "inputs.ct.min_slices"),
        (_changed("number = 1", "number = 2"), "segments"),
        (_changed('scheme = "SCT", meaning = "Bone"', 'scheme = "SCT"'), "segments.0.type.meaning"),
        (_changed("272673000", "272673000272673000"), "segments.0.type.value"),
        (_changed("[241, 214, 145]", "[241, 214]"), "segments.0.rgb"),
        (_changed("threshold_hu = 200.0", "threshold_hu = [1, 2]"), "parameters.threshold_hu"),
        (_changed("time_s = 60.0", "time_s = 0"), "limits.time_s"),
        (_changed("memory_mb = 2048", 'memory_mb = "much"'), "limits.memory_mb"),
        (GOOD + '[weights]\nfile = "w.safetensors"\nsha256 = "abc"\n', "weights.sha256"),
        (GOOD + '[weights]\nsha256 = "' + "0" * 64 + '"\n', "weights.file"),
        ("surprise = 1\n" + GOOD, "surprise"),
    ],
)
def test_a_bad_manifest_is_named_by_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    folder = _folder(tmp_path, text)

    with pytest.raises(ManifestError) as caught:
        read_manifest(folder)

    assert str(folder / MANIFEST_NAME) in str(caught.value)
    assert f"{key}" in str(caught.value).removeprefix(str(folder / MANIFEST_NAME))
    assert caught.value.code == "manifest-invalid"


def test_broken_toml_is_named_by_file_and_line(tmp_path: Path) -> None:
    folder = _folder(tmp_path, GOOD + "oops = = 1\n")

    with pytest.raises(ManifestError, match=rf"{MANIFEST_NAME}.*line {GOOD.count(chr(10)) + 1}"):
        read_manifest(folder)


def test_bytes_that_are_no_text_are_named_by_file(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "")
    (folder / MANIFEST_NAME).write_bytes(b'title = "\xff"')

    with pytest.raises(ManifestError, match=MANIFEST_NAME):
        read_manifest(folder)


def test_a_folder_without_manifest_says_so(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=f"{MANIFEST_NAME}.*No such file"):
        read_manifest(tmp_path)


def test_name_and_folder_must_agree(tmp_path: Path) -> None:
    shutil.copytree(PIPELINES / "threshold_bone", tmp_path / "renamed")

    with pytest.raises(ManifestError, match=r"'threshold_bone'.*'renamed'"):
        read_manifest(tmp_path / "renamed")


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace('version = "1.0.0"', "version = 1").replace("number = 1", "number = 0")

    with pytest.raises(ManifestError, match=r"version: .*; segments\.0\.number: "):
        read_manifest(_folder(tmp_path, text))


# -- inputs ---------------------------------------------------------------------------------------


def test_inputs_are_needed_and_lie_anywhere_unless_they_say_so() -> None:
    paired = read_manifest(PIPELINES / "hot_bone").inputs
    assert [spec.optional for spec in paired.values()] == [True, True]
    assert [spec.same_frame_as for spec in paired.values()] == [None, "pet"]
    (alone,) = read_manifest(PIPELINES / "threshold_bone").inputs.values()
    assert (alone.optional, alone.same_frame_as) == (False, None)


@pytest.mark.parametrize(
    ("role", "more", "said"),
    [
        ("ct", 'same_frame_as = "ct"', "'ct' is none of the other inputs: there is none"),
        ("ct", 'same_frame_as = "pet"', r"inputs\.ct\.same_frame_as: 'pet' is none"),
        ("ct", "optional = 'yes, please'", r"inputs\.ct\.optional"),
        ("CT 1", "", r"inputs\.CT 1"),
    ],
)
def test_inputs_that_make_no_sense_are_refused(
    tmp_path: Path, role: str, more: str, said: str
) -> None:
    quoted = f'"{role}"' if " " in role else role
    text = GOOD.replace("[inputs.ct]", f"[inputs.{quoted}]\n{more}")

    with pytest.raises(ManifestError, match=said):
        read_manifest(_folder(tmp_path, text))


# -- parameters -----------------------------------------------------------------------------------


@pytest.fixture
def parametrised(manifest: Manifest) -> Manifest:
    return manifest.model_copy(
        update={"parameters": {"level": 200.0, "count": 3, "mode": "fast", "fill": True}}
    )


def test_overrides_are_merged_into_defaults(parametrised: Manifest) -> None:
    merged = parametrised.merge({"level": 150.5, "fill": False})

    assert merged == {"level": 150.5, "count": 3, "mode": "fast", "fill": False}
    assert parametrised.parameters["level"] == 200.0


def test_a_whole_number_is_taken_for_a_real_one(parametrised: Manifest) -> None:
    merged = parametrised.merge({"level": 150})

    assert type(merged["level"]) is float


@pytest.mark.parametrize(
    "overrides", [{"level": "high"}, {"count": 3.5}, {"count": True}, {"mode": 1}, {"fill": 1}]
)
def test_a_value_of_another_type_is_refused(
    parametrised: Manifest, overrides: dict[str, str | int | float | bool]
) -> None:
    with pytest.raises(ManifestError, match=f"{next(iter(overrides))!r}.*threshold_bone") as caught:
        parametrised.merge(overrides)

    assert caught.value.code == "parameter-invalid"


def test_an_unknown_parameter_is_refused_with_those_there_are(parametrised: Manifest) -> None:
    with pytest.raises(ManifestError, match=r"'levle'.*count, fill, level, mode") as caught:
        parametrised.merge({"levle": 1.0})

    assert caught.value.code == "parameter-unknown"
