"""Searching a destination that is a DICOMweb service (QIDO-RS, PS3.18 10.6): does it answer, and hold what it took?"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable

from node.config import Config
from node.errors import DeliveryError
from node.scu import who
from node.web import Answer, Service, describe
from storage.model import Destination, Evidence

#: SOP Instance UID, as DICOM JSON names it (PS3.18 F.2).
_UID = "00080018"


def echo(destination: Destination, *, config: Config) -> tuple[float, str]:
    """Search for a study that nobody has; seconds to the answer, and its status.

    Raises
    ------
    node.errors.DeliveryError
        When it cannot be reached, or refuses the search.
    """
    began = time.monotonic()
    with Service(destination, config) as service:
        # PS3.5 B.2: a UID of a UUID is nobody's, so that no patient's data comes.
        nobody = f"2.25.{uuid.uuid4().int}"
        answer = service.ask("GET", "/studies", params={"StudyInstanceUID": nobody, "limit": "1"})
        if not answer.is_success:
            raise service.refusal(answer, "QIDO-RS")
        _items(answer, destination)
    return time.monotonic() - began, describe(answer.status)


def find(destination: Destination, sought: Iterable[Evidence], *, config: Config) -> set[str]:
    """SOP Instance UIDs that a destination lists, of what is sought.

    Each is searched by itself: services end a list where they like.

    Raises
    ------
    node.errors.DeliveryError
        When it cannot be reached, or refuses the search.
    """
    held: set[str] = set()
    with Service(destination, config) as service:
        for one in sought:
            answer = service.ask(
                "GET",
                f"/studies/{one.study_instance_uid}/series/{one.series_instance_uid}/instances",
                params={"SOPInstanceUID": one.sop_instance_uid},
            )
            # Some answer so for a study or series that they do not have.
            if answer.status == 404:
                continue
            if not answer.is_success:
                raise service.refusal(answer, "QIDO-RS")
            if one.sop_instance_uid in _items(answer, destination):
                held.add(one.sop_instance_uid)
    return held


def _items(answer: Answer, destination: Destination) -> set[str]:
    """SOP Instance UIDs of an answer (PS3.18 10.6.3): none of one that is empty."""
    if not answer.content:
        return set()
    try:
        return {
            str((item.get(_UID, {}).get("Value") or [""])[0]) for item in json.loads(answer.content)
        }
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise DeliveryError(
            f"{who(destination)} answers QIDO-RS with what is no DICOM JSON: is that the URL of its DICOMweb services?"
        ) from error
