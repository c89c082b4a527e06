"""A worklist server of UPS-RS, and a WADO-RS archive beside it: PS3.18 11 and 10.4 over real HTTP. No code of the node.

    with WorklistServer() as server:
        server.create(make_step("1.2.3", code=("BONE", "99T"), inputs=[...]))
        ...
        assert server.state("1.2.3") == "COMPLETED"

Steps are kept as DICOM JSON. It holds performers to PS3.4 Annex CC: states and their order, Transaction UIDs, what a
step needs at its end. It can be told to fail (`faults`), to ask for a token, and to be dead (`stop()`).
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

STATE, TRANSACTION, UID = "00741000", "00081195", "00080018"
PROGRESS, PERFORMED, OUTPUT = "00741002", "00741216", "00404033"
#: PS3.4 Table CC.2.5-3: what must be there, and filled, at the end.
_NEEDED = {
    "COMPLETED": (
        (PERFORMED, "00404028"),
        (PERFORMED, "00404019"),
        (PERFORMED, "00404050"),
        (PERFORMED, "00404051"),
        (PERFORMED, OUTPUT),
    ),
    "CANCELED": ((PROGRESS, "00404052"), (PROGRESS, "0074100E")),
}
_ENDED = ("COMPLETED", "CANCELED")

Json = dict[str, Any]
#: What is done with a request: an HTTP status, or `drop` (hang up), `lose` (do it, then hang up), `garbage`, `hang`.
Fault = int | str


def element(vr: str, *values: Any) -> Json:
    """One element of DICOM JSON (PS3.18 F.2)."""
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def coded(value: str, scheme: str) -> Json:
    """An item of a code sequence."""
    return {
        "00080100": element("SH", value),
        "00080102": element("SH", scheme),
        "00080104": element("LO", value),
    }


def make_input(
    study: str,
    series: str,
    instances: Iterable[tuple[str, str]],
    *,
    ae_title: str = "",
    url: str = "",
) -> Json:
    """An item of the Input Information Sequence; `instances` are SOP Class and SOP Instance UIDs."""
    item: Json = {
        "0040E020": element("CS", "DICOM"),
        "0020000D": element("UI", study),
        "0020000E": element("UI", series),
        "00081199": element(
            "SQ",
            *(
                {"00081150": element("UI", one), "00081155": element("UI", uid)}
                for one, uid in instances
            ),
        ),
    }
    if ae_title:
        item["0040E021"] = element("SQ", {"00080054": element("AE", ae_title)})
    if url:
        item["0040E025"] = element("SQ", {"00081190": element("UR", url)})
    return item


def make_step(
    uid: str,
    *,
    code: tuple[str, str],
    inputs: Sequence[Json],
    priority: str = "MEDIUM",
    **more: Json,
) -> Json:
    """A step as it is created (PS3.4 Table CC.2.5-3); `more` by tag, with a leading `t`."""
    return {
        UID: element("UI", uid),
        STATE: element("CS", "SCHEDULED"),
        "00404005": element("DT", "20260101080000+0000"),
        "00404018": element("SQ", coded(*code)),
        "00404021": element("SQ", *inputs),
        "00404041": element("CS", "READY"),
        "00741200": element("CS", priority),
        "00741204": element("LO", "Bone analysis"),
        **{tag.removeprefix("t"): value for tag, value in more.items()},
    }


def first(item: Json, tag: str) -> Any:
    """The first value of an element; None where there is none."""
    values = item.get(tag, {}).get("Value") or [None]
    return values[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass(kw_only=True)
class WorklistServer:
    """The server; a context manager, `start` and `stop` as often as a test likes."""

    port: int = 0
    token: str = ""
    steps: dict[str, Json] = field(default_factory=dict)
    #: (study, series) -> files as an archive has them.
    files: dict[tuple[str, str], list[bytes]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    #: What to do with the next request of a method and path that ends so; used up one after the other.
    faults: list[tuple[str, str, Fault]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _server: _Server | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> WorklistServer:
        """Listen; on the same port as before, the first time on a free one."""
        self._stopped.clear()
        server = _Server(self)
        self.port = server.server_address[1]
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Be dead."""
        self._stopped.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> WorklistServer:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    # -- what a test does, as another performer or the worklist's manager would -------------------

    def create(self, step: Json) -> str:
        """Schedule a step; its UID."""
        with self._lock:
            uid = str(first(step, UID))
            self.steps[uid] = deepcopy(step)
        return uid

    def claim_as_another(self, uid: str) -> None:
        status, _ = self.change_state(uid, "IN PROGRESS", f"2.25.{uuid.uuid4().int}")
        assert status == 200

    def force(self, uid: str, state: str) -> None:
        """What the manager of a worklist may do to a step whose performer is gone."""
        with self._lock:
            self.steps[uid][STATE] = element("CS", state)

    def state(self, uid: str) -> str:
        with self._lock:
            return str(first(self.steps[uid], STATE))

    def step(self, uid: str) -> Json:
        with self._lock:
            return deepcopy(self.steps[uid])

    # -- the transactions of PS3.18 11 ------------------------------------------------------------

    def search(self, query: dict[str, list[str]]) -> list[Json]:
        """11.9: matching on state and on Scheduled Workitem Code."""
        with self._lock:
            found = [_shown(step) for step in self.steps.values() if _matches(step, query)]
        return found[: int(query.get("limit", ["1000"])[0])]

    def update(self, uid: str, transaction: str, ds: Json) -> tuple[int, str]:
        """11.6; PS3.4 CC.2.6.3."""
        with self._lock:
            if (status := self._missing(uid)) is not None:
                return status, ""
            step = self.steps[uid]
            if STATE in ds:
                return 400, "The state is changed by another transaction"
            if first(step, STATE) in _ENDED:
                return 409, "The UPS may no longer be updated"
            held = first(step, TRANSACTION)
            if first(step, STATE) == "IN PROGRESS" and transaction != held:
                return 409, "The Transaction UID is missing or incorrect"
            step |= {tag: value for tag, value in ds.items() if tag != TRANSACTION}
            return 200, ""

    def change_state(  # noqa: PLR0911 - a row of the table each
        self, uid: str, state: str, transaction: str
    ) -> tuple[int, str]:
        """11.7; PS3.4 Table CC.1.1-2."""
        with self._lock:
            if (status := self._missing(uid)) is not None:
                return status, ""
            step = self.steps[uid]
            now = first(step, STATE)
            if state not in ("IN PROGRESS", *_ENDED) or not transaction:
                return 400, "No state, or no Transaction UID"
            if now in _ENDED:
                same = now == state
                return (200 if same else 409), f"The UPS is already in the state of {now}"
            if now == "SCHEDULED" and state != "IN PROGRESS":
                return 409, "The UPS is not yet in the IN PROGRESS state"
            if now == "IN PROGRESS" and state == "IN PROGRESS":
                return 409, "The UPS is already IN PROGRESS"
            if now == "IN PROGRESS" and transaction != first(step, TRANSACTION):
                return 409, "The Transaction UID is incorrect"
            lacking = [tag for where, tag in _NEEDED.get(state, ()) if not _has(step, where, tag)]
            if lacking:
                return 409, f"Final state requirements are not met: {lacking}"
            step[STATE] = element("CS", state)
            step[TRANSACTION] = element("UI", transaction)
            return 200, ""

    def request_cancel(self, uid: str) -> int:
        """11.8: a step that nobody has claimed is cancelled at once."""
        with self._lock:
            if (status := self._missing(uid)) is not None:
                return status
            if first(self.steps[uid], STATE) in _ENDED:
                return 409
            if first(self.steps[uid], STATE) == "SCHEDULED":
                self.force(uid, "CANCELED")
            return 202

    def _missing(self, uid: str) -> int | None:
        if uid in self.gone:
            return 410
        return None if uid in self.steps else 404

    def fault(self, method: str, path: str) -> Fault | None:
        """The next one for this request, used up."""
        with self._lock:
            for one in self.faults:
                if one[0] == method and path.endswith(one[1]):
                    self.faults.remove(one)
                    return one[2]
        return None


def _shown(step: Json) -> Json:
    # PS3.4 CC.2.7.3: the Transaction UID is told to nobody.
    return {tag: deepcopy(value) for tag, value in step.items() if tag != TRANSACTION}


def _matches(step: Json, query: dict[str, list[str]]) -> bool:
    for key, wanted in query.items():
        if key in ("limit", "includefield", "offset"):
            continue
        sequence, _, tag = key.partition(".")
        items = step.get(sequence, {}).get("Value", []) if tag else [step]
        if not any(first(item, tag or sequence) == wanted[0] for item in items):
            return False
    return True


def _has(step: Json, sequence: str, tag: str) -> bool:
    items = step.get(sequence, {}).get("Value", [])
    # The Output Information Sequence may be empty (type 2), but it must be there.
    return bool(items) and all(
        tag in item and (tag == OUTPUT or "Value" in item[tag]) for item in items
    )


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, worklist: WorklistServer) -> None:
        self.worklist = worklist
        super().__init__(("127.0.0.1", worklist.port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def worklist(self) -> WorklistServer:
        return cast(_Server, self.server).worklist

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_PUT(self) -> None:
        self._answer(self._put)

    def _answer(self, act: Callable[[list[str], dict[str, list[str]], Any], None]) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(raw) if raw else None
        self.worklist.asked.append(
            Asked(
                method=self.command,
                path=url.path,
                query=query,
                headers=dict(self.headers),
                body=body,
            )
        )
        fault = self.worklist.fault(self.command, url.path)
        if fault == "hang":
            self.worklist._stopped.wait(20)
        if fault in ("drop", "hang"):
            self.close_connection = True
            return
        if isinstance(fault, int):
            self._send(fault)
            return
        if fault == "garbage":
            self._send(200, b'[{"00741000": "no', "application/dicom+json")
            return
        if (
            self.worklist.token
            and self.headers.get("Authorization") != f"Bearer {self.worklist.token}"
        ):
            self._send(401)
            return
        self._lost = fault == "lose"
        if raw and self.headers.get("Content-Type") != "application/dicom+json":
            self._send(415)
            return
        act(url.path.removeprefix("/dicom-web/").split("/"), query, body)

    def _get(self, path: list[str], query: dict[str, list[str]], body: Any) -> None:
        match path:
            case ["workitems"]:
                self._datasets(self.worklist.search(query))
            case ["workitems", uid]:
                status = self.worklist._missing(uid)
                if status is not None:
                    self._send(status)
                else:
                    self._datasets([_shown(self.worklist.step(uid))])
            case ["studies", study, "series", series]:
                self._files(self.worklist.files.get((study, series), []))
            case _:
                self._send(404)

    def _post(self, path: list[str], query: dict[str, list[str]], body: Any) -> None:
        match path:
            case ["workitems", uid]:
                transaction = query.get("transaction", [""])[0]
                self._told(*self.worklist.update(uid, transaction, body[0]))
            case ["workitems", uid, "cancelrequest"]:
                self._send(self.worklist.request_cancel(uid))
            case _:
                self._send(404)

    def _put(self, path: list[str], query: dict[str, list[str]], body: Any) -> None:
        match path:
            case ["workitems", uid, "state"]:
                state = str(first(body[0], STATE))
                transaction = str(first(body[0], TRANSACTION) or "")
                self._told(*self.worklist.change_state(uid, state, transaction))
            case _:
                self._send(404)

    def _datasets(self, found: list[Json]) -> None:
        if found:
            self._send(200, json.dumps(found).encode(), "application/dicom+json")
        else:
            self._send(204)

    def _files(self, files: list[bytes]) -> None:
        if not files:
            self._send(404)
            return
        head = b"--part\r\nContent-Type: application/dicom\r\n\r\n"
        content = b"".join(head + file + b"\r\n" for file in files) + b"--part--\r\n"
        self._send(200, content, 'multipart/related; type="application/dicom"; boundary=part')

    def _told(self, status: int, warning: str) -> None:
        self._send(status, headers={"Warning": f"299 worklist: {warning}"} if warning else {})

    def _send(
        self,
        status: int,
        content: bytes = b"",
        media_type: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        if getattr(self, "_lost", False):
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if content:
            self.send_header("Content-Type", media_type)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
