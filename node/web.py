"""A DICOMweb service over HTTP (PS3.18): who we are to it, one request, and what the status of its answer means.

Credentials come from the configuration, and are read again for each request: tokens are renewed. A destination that
is a DICOMweb service is asked by `Service`; worklists (`node.ups`) have the same credentials.
"""

from __future__ import annotations

import ipaddress
import ssl
import time
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from node import tls
from node.config import Config, WebSetting, read_secret
from node.errors import ConfigError, DeliveryError
from node.scu import who
from storage.model import Destination, utcnow

#: Longest answer that is read, in bytes.
_LONGEST = 16_000_000
#: Longest wait that a service may ask for, in seconds.
_MOST_S = 86_400.0
_PORTS = {"https": 443, "http": 80}
#: RFC 9110: refusals that end without us (busy, too slow, moved), or when a credential or a URL is corrected.
_PASSING = frozenset((401, 404, 407, 408, 410, 425, 429))
#: All that is asked is refused, until somebody grants it.
_FORBIDDEN = frozenset((403, 405))


# -- where it is, and who we are ------------------------------------------------------------------


def read_url(url: str, *, plain: bool = False) -> tuple[str, str, int]:
    """The URL of a service without its last slash, its host and its port.

    Parameters
    ----------
    plain
        Whether it may be reached without TLS although it is on another machine.

    Raises
    ------
    ConfigError
        With what is wrong; what is given may be a secret, and is not repeated.
    """
    try:
        split = urlsplit(url)
        host, port = split.hostname or "", split.port or _PORTS.get(split.scheme, 0)
    except ValueError as error:
        raise ConfigError(f"The URL cannot be read: {error}.") from error
    if split.scheme not in _PORTS or not host or not url.isprintable() or " " in url:
        raise ConfigError(
            "That is no URL of a DICOMweb service: write it as https://pacs.example.org/dicom-web."
        )
    if split.username is not None or split.query or split.fragment:
        raise ConfigError(
            "The URL holds more than scheme, host, port and path. A user, password or token is given in the "
            "configuration, under [delivery.web.NAME]."
        )
    if split.scheme == "http" and not plain and not _is_here(host):
        raise ConfigError(
            "http:// sends patients' data in clear text: give the https:// URL, or say --plain if the network between "
            "is secured otherwise."
        )
    return url.rstrip("/"), host, port


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def authorization(setting: WebSetting, *, where: str) -> dict[str, str]:
    """The header that names us: a bearer token (RFC 6750) or user and password (RFC 7617); none where none is set.

    Parameters
    ----------
    where
        The setting's table, for messages.

    Raises
    ------
    ConfigError
        When a file cannot be read, or does not hold what it should.
    """
    if token := _secret(setting.token_file, setting.token, f"{where}.token_file"):
        # RFC 6750 2.1: printable, and one word.
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise ConfigError(f"{where}: the token is no bearer token: one word of ASCII.")
        return {"Authorization": f"Bearer {token}"}
    if setting.user:
        password = _secret(setting.password_file, setting.password, f"{where}.password_file")
        pair = b64encode(f"{setting.user}:{password}".encode()).decode("ascii")
        return {"Authorization": f"Basic {pair}"}
    return {}


def _secret(file: Path | None, given: SecretStr, where: str) -> str:
    if file is None:
        return given.get_secret_value().strip()
    if not (secret := read_secret(where, str(file)).strip()):
        raise ConfigError(f"{where}: {file} is empty.")
    return secret


def tls_context(setting: WebSetting, *, where: str) -> ssl.SSLContext:
    """How a connection is secured: its certificate and host name are verified, always.

    Raises
    ------
    ConfigError
        When a certificate or key cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=setting.ca)
        if setting.certificate is not None:
            # Without a password of ours OpenSSL would ask for one on the terminal.
            context.load_cert_chain(setting.certificate, setting.key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{where}: a certificate or key cannot be read (PEM, not encrypted): {error}"
        ) from error
    return context


# -- one request ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a service says."""

    status: int
    #: Media type, without parameters.
    media_type: str
    content: bytes
    #: Seconds that it wants to be left alone for.
    retry_after_s: float = 0.0

    @property
    def is_success(self) -> bool:
        """2xx."""
        return httpx.codes.is_success(self.status)


class Service:
    """A destination that is a DICOMweb service; a context manager.

    Raises
    ------
    node.errors.DeliveryError
        When we cannot be to it who the configuration says.
    """

    def __init__(self, destination: Destination, config: Config) -> None:
        self.destination = destination
        self._where = f"delivery.web.{destination.name}"
        self._setting = config.delivery.web.get(destination.name, WebSetting())
        self._timeout_s = config.delivery.timeout_s
        split = urlsplit(destination.url)
        if self._has_credential and split.scheme == "http" and not _is_here(split.hostname or ""):
            raise DeliveryError(
                f"{who(destination)}: [{self._where}] has a credential, which is not sent over http://: give the "
                f"https:// URL (`osteonode destinations edit {destination.name} --web`)."
            )
        try:
            context = tls_context(self._setting, where=self._where)
        except ConfigError as error:
            raise DeliveryError(f"{who(destination)}: {error}") from error
        self._http = httpx.Client(verify=context, timeout=self._timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.close()

    @property
    def _has_credential(self) -> bool:
        """Whether a header names us; a certificate is another way."""
        return bool(self._setting.user or self._setting.token_file or self._setting.token)

    def ask(  # noqa: PLR0913 - what a request is made of
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: Iterable[bytes] | None = None,
        allow_s: float = 0.0,
    ) -> Answer:
        """One request to `path` below the URL, and its answer whatever its status; no redirect is followed.

        Parameters
        ----------
        content
            The body, in pieces: it is never held whole. `headers` has its Content-Length.
        allow_s
            Seconds to wait for the answer besides the usual.

        Raises
        ------
        node.errors.DeliveryError
            When there is no answer, or none that can be read.
        """
        try:
            sent = authorization(self._setting, where=self._where)
        except ConfigError as error:
            raise DeliveryError(f"{who(self.destination)}: {error}") from error
        # An answer that is packed could be any size when it is unpacked.
        sent |= {"Accept": "application/dicom+json", "Accept-Encoding": "identity"}
        try:
            with self._http.stream(
                method,
                self.destination.url + path,
                params=params,
                headers={**sent, **(headers or {})},
                content=content,
                timeout=httpx.Timeout(self._timeout_s, read=self._timeout_s + allow_s),
            ) as answer:
                return self._read(answer)
        except httpx.TimeoutException as error:
            raise DeliveryError(
                f"{who(self.destination)} does not answer within {self._timeout_s + allow_s:.0f} s."
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DeliveryError(f"{who(self.destination)} {_why_not(error)}.") from error

    def _read(self, answer: httpx.Response) -> Answer:
        content = bytearray()
        until = time.monotonic() + self._timeout_s
        for piece in answer.iter_raw():
            content += piece
            if len(content) > _LONGEST or time.monotonic() > until:
                raise DeliveryError(f"{who(self.destination)} gives an answer without an end.")
        return Answer(
            status=answer.status_code,
            media_type=answer.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
            content=bytes(content),
            retry_after_s=read_retry_after(answer.headers.get("Retry-After", ""), utcnow()),
        )

    def refusal(self, answer: Answer, what: str) -> DeliveryError:
        """The error that an answer other than 2xx is, with who must act.

        Parameters
        ----------
        what
            What was asked: `STOW-RS` or `QIDO-RS`.
        """
        status = answer.status
        said = f"{who(self.destination)} answers {what} with {describe(status)}"
        return DeliveryError(
            f"{said}{_advice(status, self.destination.name, is_named=self._has_credential)}.",
            permanent=is_permanent(status),
            retry_after_s=answer.retry_after_s,
        )


def is_about_us(status: int) -> bool:
    """Whether a refusal is of the whole service, not of what one request holds."""
    return status in _FORBIDDEN or status in _PASSING or not 400 <= status < 500


def is_permanent(status: int) -> bool:
    """Whether a refusal stays one when nothing is changed."""
    return 400 <= status < 500 and status not in _PASSING


def describe(status: int) -> str:
    """An HTTP status as people read it; the service's own phrase could be anything."""
    return f"HTTP {status} {httpx.codes.get_reason_phrase(status)}".rstrip()


def _advice(status: int, name: str, *, is_named: bool) -> str:
    """Who must act, as the end of a sentence; empty where time does."""
    if status in (401, 407):
        if is_named:
            return f": renew the credential of [delivery.web.{name}]; it is read again for each request"
        return f": it wants a credential; give it in the configuration, under [delivery.web.{name}]"
    if status in (404, 405, 410) or 300 <= status < 400:
        return (
            f": the service is not there; correct its URL by `osteonode destinations edit {name} --web`, or its "
            "administrator switches it on"
        )
    return {
        403: ": its administrator must allow our account (or certificate) to do that",
        413: ": its administrator must raise the size of a request that it takes",
        415: ": it does not take this transfer syntax; its administrator must allow it",
    }.get(status, "")


def _why_not(error: BaseException) -> str:
    """Why there was no answer; an exception's own text may hold anything."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"is not reached: TLS: {tls.explain(cause)}"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError | httpx.InvalidURL | httpx.UnsupportedProtocol):
        return "cannot be reached"
    return "ended the connection, or speaks no HTTP"


def read_retry_after(value: str, now: datetime) -> float:
    """Seconds of a Retry-After header (RFC 9110 10.2.3), a day at most; 0 where it says nothing."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(_MOST_S, float(value[:9]))
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(_MOST_S, max(0.0, (at - now).total_seconds()))
