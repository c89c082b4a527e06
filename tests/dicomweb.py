"""A DICOMweb archive over real HTTP: STOW-RS (PS3.18 10.5) and QIDO-RS for instances (10.6). No code of the node.

    with WebArchive() as archive:
        ...
        assert archive.files[uid] == path.read_bytes()

It can be told to fail (`faults`), to refuse instances (`failing`) and transfer syntaxes, to forget, to ask for a token
or a client certificate, and to be dead (`stop()`).
"""

from __future__ import annotations

import json
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from certificates import Authority, Files
from pydicom import dcmread

Json = dict[str, Any]
#: HTTP status, with headers; or `hang`, `drop` (hang up), `lose` (store, then hang up), `page` (200, of a proxy),
#: `flood` (200, 40 MB).
Fault = tuple[int, dict[str, str]] | str


def element(vr: str, *values: Any) -> Json:
    """One element of DICOM JSON (PS3.18 F.2)."""
    return {"vr": vr, "Value": list(values)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    #: SOP Instance UIDs of the body, in order.
    uids: tuple[str, ...] = ()
    #: Content-Type of each part.
    media_types: tuple[str, ...] = ()


@dataclass(kw_only=True)
class WebArchive:
    """The server; a context manager, `start` and `stop` as often as a test likes."""

    port: int = 0
    #: What Authorization must be; empty: nothing.
    authorization: str = ""
    #: Over TLS, with this certificate; who connects shows one of this authority.
    identity: Files | None = None
    clients_of: Authority | None = None
    #: SOP Instance UID -> file as it came.
    files: dict[str, bytes] = field(default_factory=dict)
    #: How often each came.
    times: dict[str, int] = field(default_factory=dict)
    #: SOP Instance UID -> Failure Reason.
    failing: dict[str, int] = field(default_factory=dict)
    #: SOP Instance UID -> Warning Reason.
    warning: dict[str, int] = field(default_factory=dict)
    #: Taken and not listed.
    forgotten: set[str] = field(default_factory=set)
    #: Transfer syntaxes: a request with one is answered with 415; or an instance with Failure Reason 0xC122.
    unsupported: set[str] = field(default_factory=set)
    syntaxes_refused: set[str] = field(default_factory=set)
    #: Largest body that is taken, in bytes.
    largest: int = 1 << 40
    #: What to do with the next requests of a method, one after the other.
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _server: _Server | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> WebArchive:
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

    def __enter__(self) -> WebArchive:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        scheme = "https" if self.identity else "http"
        return f"{scheme}://127.0.0.1:{self.port}/dicom-web"

    def requests(self, method: str) -> list[Asked]:
        """Those of a method, in order."""
        return [one for one in self.asked if one.method == method]

    def fault(self, method: str) -> Fault | None:
        """The next one for this method, used up."""
        with self._lock:
            for one in self.faults:
                if one[0] == method:
                    self.faults.remove(one)
                    return one[1]
        return None

    def store(self, parts: list[bytes]) -> tuple[int, Json]:
        """Status and Store Instances Response (PS3.18 I.2)."""
        stored, failed = [], []
        for part in parts:
            ds = dcmread(BytesIO(part))
            uid = str(ds.SOPInstanceUID)
            item = {
                "00081150": element("UI", str(ds.SOPClassUID)),
                "00081155": element("UI", uid),
            }
            reason = self.failing.get(uid)
            if syntax_of(part) in self.syntaxes_refused:
                reason = 0xC122
            if reason is not None:
                failed.append(item | {"00081197": element("US", reason)})
                continue
            with self._lock:
                self.files[uid] = part
                self.times[uid] = self.times.get(uid, 0) + 1
            if uid in self.warning:
                item["00081196"] = element("US", self.warning[uid])
            stored.append(item)
        response: Json = {}
        if stored:
            response["00081199"] = element("SQ", *stored)
        if failed:
            response["00081198"] = element("SQ", *failed)
        status = 200 if not failed and not self.warning else 202 if stored else 409
        return status, response

    def search(self, study: str, series: str, wanted: str) -> list[Json]:
        """Instances of a series with that SOP Instance UID."""
        with self._lock:
            found = [dcmread(BytesIO(file)) for file in self.files.values()]
        return [
            {"00080018": element("UI", str(ds.SOPInstanceUID))}
            for ds in found
            if (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
            == (study, series, wanted)
            and ds.SOPInstanceUID not in self.forgotten
        ]


def syntax_of(file: bytes) -> str:
    """Transfer Syntax UID."""
    return str(dcmread(BytesIO(file), stop_before_pixels=True).file_meta.TransferSyntaxUID)


def split(raw: bytes, content_type: str) -> tuple[list[str], list[bytes]]:
    """Content-Type and content of each part of a multipart/related body (RFC 2046 5.1.1)."""
    media_type, _, parameters = content_type.partition(";")
    assert media_type == "multipart/related"
    named = dict(one.strip().split("=", 1) for one in parameters.split(";"))
    assert named["type"] == '"application/dicom"'
    between = b"\r\n--" + named["boundary"].encode()
    first, *parts, last = (b"\r\n" + raw).split(between)
    assert (first, last) == (b"", b"--\r\n")
    found = [one.removeprefix(b"\r\n").split(b"\r\n\r\n", 1) for one in parts]
    return [head.decode().removeprefix("Content-Type: ") for head, _ in found], [
        content for _, content in found
    ]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, archive: WebArchive) -> None:
        self.archive = archive
        super().__init__(("127.0.0.1", archive.port), _Handler)
        if archive.identity is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(archive.identity.certificate, archive.identity.key)
            if archive.clients_of is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(archive.clients_of.file)
            # In a thread of its own: a handshake that fails is one connection's.
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that hangs up is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def archive(self) -> WebArchive:
        return cast(_Server, self.server).archive

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        archive = self.archive
        length = int(self.headers["Content-Length"])
        if length > archive.largest:
            self._ask([], [])
            self.close_connection = True
            self._say(413)
            # As nginx lingers: a connection that is closed on what was not read is reset, and the answer lost.
            self.rfile.read(length)
            return
        raw = self.rfile.read(length)
        media_types, parts = split(raw, self.headers["Content-Type"])
        self._ask([str(dcmread(BytesIO(one)).SOPInstanceUID) for one in parts], media_types)
        fault = self._refused()
        if fault is True:
            return
        if {syntax_of(one) for one in parts} & archive.unsupported:
            self._say(415)
            return
        status, response = archive.store(parts)
        if fault == "lose":
            self.close_connection = True
            return
        self._say(status, json.dumps(response).encode(), "application/dicom+json")

    def do_GET(self) -> None:
        self._ask([], [])
        if self._refused() is True:
            return
        url = urlsplit(self.path)
        match url.path.removeprefix("/dicom-web/").split("/"):
            case ["studies", study, "series", series, "instances"]:
                wanted = parse_qs(url.query)["SOPInstanceUID"][0]
                found = self.archive.search(study, series, wanted)
            case ["studies"]:
                found = []
            case _:
                self._say(404)
                return
        if found:
            self._say(200, json.dumps(found).encode(), "application/dicom+json")
        else:
            self._say(204)

    def _ask(self, uids: list[str], media_types: list[str]) -> None:
        url = urlsplit(self.path)
        self.archive.asked.append(
            Asked(
                method=self.command,
                path=url.path,
                query=parse_qs(url.query),
                headers=dict(self.headers),
                uids=tuple(uids),
                media_types=tuple(media_types),
            )
        )

    def _refused(self) -> bool | str:
        """True when the request is answered; else what is to be done after it."""
        fault = self.archive.fault(self.command)
        wanted = self.archive.authorization
        if fault in ("hang", "drop"):
            if fault == "hang":
                self.archive._stopped.wait(20)
            self.close_connection = True
        elif fault == "page":
            self._say(200, b"<html><body>Please log in</body></html>", "text/html")
        elif fault == "flood":
            self._say(200, b"[" * 40_000_000, "application/dicom+json")
        elif isinstance(fault, tuple):
            self._say(fault[0], headers=fault[1])
        elif wanted and self.headers.get("Authorization") != wanted:
            self._say(401)
        else:
            return fault or False
        return True

    def _say(
        self,
        status: int,
        content: bytes = b"",
        media_type: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            # RFC 9112 9.6: the client must not ask again on a connection that is about to be closed.
            self.send_header("Connection", "close")
        if content:
            self.send_header("Content-Type", media_type)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
