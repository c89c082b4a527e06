"""Worklists of Unified Procedure Steps, asked over HTTP: search, retrieve, claim, update, end (PS3.18 section 11).

dicomweb-client has no worklist service, so these five requests are made by httpx. Each raises `WorklistError` with a
code for what a caller does about it; nothing is tried again here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Self

import httpx
from pydicom import Dataset
from pydicom.errors import BytesLengthException

from node import web
from node.config import WorklistSetting
from node.errors import ConfigError, WorklistError

_JSON = "application/dicom+json"
#: Largest answer to a search that is asked for.
LIMIT = 50
#: What pydicom raises on JSON that is no data set.
_NO_DATASET = (
    *(ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RecursionError),
    BytesLengthException,
)


class UpsClient:
    """One worklist; a context manager.

    Raises
    ------
    ConfigError
        When a certificate cannot be read.
    """

    def __init__(self, name: str, setting: WorklistSetting) -> None:
        self._name = name
        self._setting = setting
        self._http = httpx.Client(
            base_url=setting.url,
            headers={"Accept": _JSON},
            timeout=setting.timeout_s,
            verify=web.tls_context(setting, where=f"ups.worklists.{name}"),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def search(self, code: str, *, state: str = "SCHEDULED") -> tuple[Dataset, ...]:
        """Steps of one Scheduled Workitem Code (`VALUE^SCHEME`), as the worklist orders them.

        A worklist that does not match on codes answers with more: the caller looks again.

        References
        ----------
        PS3.18 11.9, PS3.4 CC.2.8.
        """
        value, _, scheme = code.partition("^")
        query = {
            "00741000": state,
            "00404018.00080100": value,
            "00404018.00080102": scheme,
            "includefield": "all",
            "limit": str(LIMIT),
        }
        answer = self._ask("GET", "/workitems", params=query)
        return tuple(self._datasets(answer))

    def retrieve(self, uid: str) -> Dataset:
        """One step as it is now (PS3.18 11.5)."""
        found = list(self._datasets(self._ask("GET", f"/workitems/{uid}")))
        if len(found) != 1:
            raise self._error("unreadable", f"answers with {len(found)} data sets, not one")
        return found[0]

    def change_state(self, uid: str, state: str, *, transaction_uid: str) -> None:
        """Claim (`IN PROGRESS`) or end (`COMPLETED`, `CANCELED`) a step (PS3.18 11.7)."""
        ds = Dataset()
        ds.TransactionUID = transaction_uid
        ds.ProcedureStepState = state
        self._ask("PUT", f"/workitems/{uid}/state", ds=ds)

    def update(self, uid: str, ds: Dataset, *, transaction_uid: str) -> None:
        """Set attributes of a step that is ours (PS3.18 11.6).

        The Transaction UID goes as query parameter and, as with N-SET (PS3.4 CC.2.6), in the data set: worklists look
        for it in either place.
        """
        sent = Dataset()
        sent.update(ds)
        sent.TransactionUID = transaction_uid
        self._ask("POST", f"/workitems/{uid}", params={"transaction": transaction_uid}, ds=sent)

    # -- one request --------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        ds: Dataset | None = None,
    ) -> httpx.Response:
        headers = authorization(self._name, self._setting)
        content = None
        if ds is not None:
            headers["Content-Type"] = _JSON
            content = json.dumps([ds.to_json_dict()]).encode("utf-8")
        try:
            answer = self._http.request(
                method, path, params=params, content=content, headers=headers
            )
        except httpx.TimeoutException as error:
            waited = f"{self._setting.timeout_s:g} s"
            raise self._error("no-answer", f"does not answer within {waited}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # Its text may hold the URL's password.
            raise self._error("no-answer", f"cannot be reached ({type(error).__name__})") from error
        if not answer.is_success:
            raise self._refusal(method, path, answer)
        return answer

    def _refusal(self, method: str, path: str, answer: httpx.Response) -> WorklistError:
        said = f"answers {method} {path} with {answer.status_code} {answer.reason_phrase}"
        # PS3.18 11.7.3.3: why, in a Warning header.
        if warning := answer.headers.get("Warning", ""):
            said += f" ({warning[:200]})"
        return self._error(code_of(answer.status_code), said)

    def _datasets(self, answer: httpx.Response) -> Iterator[Dataset]:
        # PS3.18 11.9.3: nothing found.
        if answer.status_code == httpx.codes.NO_CONTENT or not answer.content:
            return
        try:
            found = json.loads(answer.content)
            items = found if isinstance(found, list) else [found]
            read = [_read(item) for item in items]
        except _NO_DATASET as error:
            raise self._error("unreadable", "answers with what is no DICOM JSON") from error
        yield from read

    def _error(self, code: str, said: str) -> WorklistError:
        return WorklistError(code, f"Worklist {self._name} {said}.")


def code_of(status: int) -> str:
    """What an HTTP status of a refusal means to us: a code of `WorklistError`.

    References
    ----------
    PS3.18 Tables 11.5.3-1, 11.6.3-1, 11.7.3-1, 11.9.3-1; RFC 9110.
    """
    if status in (401, 403, 407):
        return "not-authorized"
    if status in (404, 410):
        return "unknown"
    if status == 409:
        return "conflict"
    # Request timeout, too many requests; theirs, and perhaps not for long.
    if status in (408, 425, 429) or status >= 500:
        return "no-answer"
    return "refused"


def authorization(name: str, setting: WorklistSetting) -> dict[str, str]:
    """The header that names us; the token is read again each time, for it is renewed.

    Raises
    ------
    WorklistError
        When the file cannot be read.
    """
    try:
        return web.authorization(setting, where=f"ups.worklists.{name}")
    except ConfigError as error:
        raise WorklistError("not-authorized", f"Worklist {name}: {error}") from error


def _read(item: Any) -> Dataset:
    ds = Dataset.from_json(item)
    # Values are converted when they are first looked at: all of them now, where an error has a name.
    json.dumps(ds.to_json_dict())
    return ds
