"""What the statement says of DICOMweb as user agent: of STOW-RS each HTTP status, by what is done on it."""

from __future__ import annotations

from http import HTTPStatus
from itertools import groupby

from node import stow
from node.conformance.network import BEHAVIORS
from node.conformance.text import table
from node.scu import Outcome
from node.web import is_about_us, is_permanent

_EACH = "read instance by instance"


def write_web(failed: str) -> str:
    """Storage and search towards destinations that are DICOMweb services.

    Parameters
    ----------
    failed
        What is done with an instance that is refused.
    """
    done = sorted(
        (_behavior(status, failed), int(status)) for status in HTTPStatus if status >= 200
    )
    rows = sorted(
        (", ".join(str(status) for _, status in members), behavior)
        for behavior, members in groupby(done, key=lambda one: one[0])
    )
    return f"""\
Where a destination is a DICOMweb service (`osteonode destinations add --web`), what C-STORE is to a remote AE is Store
Instances (POST of `/studies`, multipart/related, type application/dicom): at most {stow.BATCH} instances or
{stow.BATCH_BYTES // 1_000_000} MB in a request, Content-Length given, Accept application/dicom+json. A part is the file
as it lies, in its transfer syntax, which its File Meta Information says; the media type has no transfer-syntax
parameter. An object in RLE or JPEG-LS Lossless whose request is answered with 415, or that has the Failure Reason
0xC122, is sent again in Explicit VR Little Endian. Of the Store Instances Response the Referenced SOP Sequence (with
Warning Reason) and the Failed SOP Sequence are read; reasons count as the statuses of C-STORE do (7.4). An instance
that a response does not name is tried again; a 200 without a response has taken all.

{table(("HTTP status of STOW-RS", "Then"), rows)}

Retry-After (seconds or date, a day at most) is kept for all that is owed to the destination. No redirect is followed.
Credentials: bearer token (RFC 6750), user and password (RFC 7617), or a client certificate; over http:// to another
machine none is sent. HTTPS verifies certificate and host name.

Where such a destination is asked to commit itself, what it took is searched by QIDO-RS as soon as all of a workitem was
sent: GET of `/studies/STUDY/series/SERIES/instances?SOPInstanceUID=INSTANCE` for each instance. What is found is
COMMITTED; what is missing is searched again until `[delivery] commit_deadline_s`, and has failed with 0x0112 then.
`osteonode destinations echo` is a search for a study that nobody has."""


def _behavior(status: int, failed: str) -> str:
    if 200 <= status < 300:
        return _EACH
    if status == HTTPStatus.CONFLICT:
        return f"{_EACH}; without a response each is sent alone, then {BEHAVIORS[Outcome.RETRY]}"
    if is_about_us(status):
        return f"all: {failed if is_permanent(status) else BEHAVIORS[Outcome.RETRY]}"
    return f"each is sent alone; then {failed}"
