"""Unique identifiers of what we make, derived from what we made it from.

The same inputs, pipeline, version and parameters give the same UIDs, so that a step may run twice and count once:
a PACS that gets the object again sees one object. They are UUIDs (PS3.5 B.2: `2.25.` and the UUID as a decimal
number) unless the hospital has a root of its own.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable

from storage.model import Parameters

#: PS3.5 B.2: the root for UIDs made of UUIDs.
UUID_ROOT = "2.25"
#: Name space (RFC 9562 5.5) of everything below; never change it.
_NAMESPACE = uuid.UUID("6f3a2c1e-9d0b-5a47-8e21-3b7c5d9f0a64")


def derive_uid(root: str, *parts: str) -> str:
    """A UID of at most 64 characters under `root`, always the same for the same parts."""
    number = uuid.uuid5(_NAMESPACE, json.dumps([root, *parts])).int
    room = 64 - len(root) - 1
    return f"{root}.{str(number)[:room]}"


def derive_workitem_uid(
    root: str,
    *,
    pipeline: str,
    version: str,
    parameters: Parameters,
    sop_instance_uids: Iterable[str],
) -> str:
    """One workitem: pipeline, version, parameters and sorted inputs."""
    return derive_uid(
        root,
        "workitem",
        pipeline,
        version,
        json.dumps(dict(parameters), sort_keys=True),
        *sorted(sop_instance_uids),
    )


def derive_workitem_uid_after(root: str, *, workitem_uid: str, after: str) -> str:
    """The same run once more, for its first result was replaced by that of `after`: what it makes is another object.

    A PACS that was told not to use the first result would not show it when it came again.
    """
    return derive_uid(root, "workitem", workitem_uid, "after", after)


def derive_device_uid(root: str, *, pipeline: str, version: str, weights_sha256: str) -> str:
    """Device UID (0018,1002) of an algorithm: another one whenever the model changes (IHE AIR 6.5.3.1)."""
    return derive_uid(root, "device", pipeline, version, weights_sha256)


def derive_series_uid(root: str, *, workitem_uid: str, kind: str) -> str:
    """Series Instance UID of one kind of evidence: one series per object."""
    return derive_uid(root, "series", workitem_uid, kind)


def derive_sop_instance_uid(root: str, *, workitem_uid: str, kind: str) -> str:
    """SOP Instance UID of one kind of evidence."""
    return derive_uid(root, "instance", workitem_uid, kind)


def derive_tracking_uid(root: str, *, workitem_uid: str, segment_number: int) -> str:
    """Tracking UID (0062,0021) of one segment, equal in SEG and SR."""
    return derive_uid(root, "tracking", workitem_uid, str(segment_number))
