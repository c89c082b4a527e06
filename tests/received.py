"""Series as they were received, and manifests, for tests of what rules make of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pipelines.manifest import Manifest
from storage.model import Series

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CODE = {"value": "113343008", "scheme": "SCT", "meaning": "Organ"}
ORIGINAL = ("ORIGINAL", "PRIMARY", "AXIAL")


def make_manifest(name: str, **inputs: dict[str, object]) -> Manifest:
    """A pipeline that takes these inputs."""
    return Manifest.model_validate(
        {
            "name": name,
            "version": "1.0.0",
            "title": name,
            "procedure": CODE,
            "inputs": inputs,
            "segments": [
                {"number": 1, "label": "Bone", "category": CODE, "type": CODE, "rgb": [1, 2, 3]}
            ],
            "parameters": {"threshold": 200.0},
        }
    )


#: One input; and two in one frame of reference.
BONES = make_manifest("bones", ct={"modality": ["CT"], "min_instances": 10})
LESIONS = make_manifest(
    "lesions",
    spect={"modality": ["NM"], "min_instances": 20, "optional": True},
    ct={"modality": ["CT"], "min_instances": 20, "optional": True, "same_frame_as": "spect"},
)


def series(
    name: str,
    *,
    study: str = "1.2",
    modality: str = "CT",
    slices: int | None = 100,
    at: float = 0,
    own: bool = False,
    **header: tuple[object, ...],
) -> Series:
    """A series whose instances came `at` seconds after noon."""
    moment = NOON + timedelta(seconds=at)
    facts = {} if slices is None else {"instances": slices, "slices": slices, "frames": slices}
    return Series(
        series_instance_uid=name,
        study_instance_uid=study,
        modality=modality,
        instance_count=slices or 1,
        first_received_at=moment,
        last_received_at=moment,
        header={"Modality": (modality,), "ImageType": ORIGINAL, **header},  # type: ignore[dict-item]
        facts=facts,
        own=own,
    )
