"""TLS for DICOM, as PS3.15 B.12 (BCP 195: RFC 8996, RFC 9325): contexts made of files, made again when these change.

TLS 1.2 and 1.3 only, with the four cipher suites that RFC 9325 4.2 recommends and those of TLS 1.3; no compression,
renegotiation or tickets. A certificate that is replaced counts from the next connection on; one that cannot be used
is told in the log, and the last good one goes on.
"""

from __future__ import annotations

import os
import ssl
import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import structlog

from node.config import TlsSection
from node.errors import ConfigError
from node.revocation import demand_unrevoked

#: RFC 9325 4.2, for TLS 1.2: forward secrecy and authenticated encryption.
CIPHER_SUITES = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)

#: X509_V_ERR_UNABLE_TO_GET_CRL, X509_V_ERR_CRL_HAS_EXPIRED of OpenSSL: ours to mend, and not the peer's.
_REMEDIES: Mapping[int, str] = {
    3: " (tls.crl_file has no list of its authority, or of one above)",
    12: " (tls.crl_file needs the authority's new list)",
}

_log = structlog.get_logger(__name__)


class Reloaded:
    """A context that is made again when one of its files has changed.

    Parameters
    ----------
    files
        What it is made of.
    make
        Makes it; raises `ConfigError` when a file cannot be used.
    """

    def __init__(self, files: Iterable[str], make: Callable[[], ssl.SSLContext]) -> None:
        self._files = tuple(files)
        self._make = make
        self._lock = threading.Lock()
        self._made_of: tuple[object, ...] | None = None
        self._context: ssl.SSLContext | None = None

    def current(self) -> ssl.SSLContext:
        """The context of the files as they are, or as they last could be used.

        Raises
        ------
        ConfigError
            When they never could; names file and remedy.
        """
        with self._lock:
            stamp = tuple(_stamp(name) for name in self._files)
            if self._context is None or stamp != self._made_of:
                try:
                    self._context = self._make()
                except ConfigError as error:
                    if self._context is None:
                        raise
                    # Perhaps one of two files is there and the other still to come: that is another change.
                    _log.error("tls_files_not_usable", reason=str(error), kept="those before")
                else:
                    if self._made_of is not None:
                        _log.info("tls_files_read_again")
                self._made_of = stamp
            return self._context


def acceptor(section: TlsSection) -> Reloaded:
    """What connections are accepted with; those who connect show a certificate where `mutual` is set."""

    def make() -> ssl.SSLContext:
        context = _context(ssl.PROTOCOL_TLS_SERVER)
        _identify(context, section)
        if section.mutual:
            _trust(context, section.authorities)
            _hold_against_lists(context, section)
            context.verify_mode = ssl.CERT_REQUIRED
        # A session that is resumed would count by files that are gone.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        return context

    return Reloaded(_files(section), make)


class Dialer:
    """How connections to destinations are secured; says why one could not be.

    Parameters
    ----------
    to_self
        For a connection to this very node: its own certificate is trusted, under whatever name it is reached.
    """

    def __init__(self, section: TlsSection, *, to_self: bool = False) -> None:
        self._section = section
        self._to_self = to_self
        self._reloaded = Reloaded(_files(section), self._make)

    def _make(self) -> ssl.SSLContext:
        section = self._section
        context = _context(ssl.PROTOCOL_TLS_CLIENT)
        if section.certificate:
            _identify(context, section)
        if self._to_self:
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            _trust(context, section.certificate)
        elif section.authorities:
            _trust(context, section.authorities)
            _hold_against_lists(context, section)
        else:
            context.load_default_certs()
        return context

    def connection(self) -> Connection:
        """For one connection.

        Raises
        ------
        ConfigError
            When a file cannot be used.
        """
        return Connection(self._reloaded.current())


class Connection:
    """One connection to a peer, as pynetdicom takes it in place of an `ssl.SSLContext`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._wrapped: _Dialed | None = None

    @property
    def refusal(self) -> str:
        """Why the handshake failed; empty when it did not, or the peer was not reached."""
        return self._wrapped.refusal if self._wrapped is not None else ""

    def wrap_socket(self, sock: Any, *, server_side: bool, server_hostname: str) -> ssl.SSLSocket:
        """Secure a socket that is not connected yet; the peer's certificate is verified when it is."""
        self._context.sslsocket_class = _Dialed
        wrapped = self._context.wrap_socket(
            sock, server_side=server_side, server_hostname=server_hostname
        )
        self._wrapped = cast(_Dialed, wrapped)
        return wrapped


class _Dialed(ssl.SSLSocket):
    """Remembers why a handshake failed, and is closed whatever fails: pynetdicom does neither."""

    refusal = ""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError as error:
            self.refusal = explain(error)
            raise

    def connect(self, addr: Any) -> None:
        try:
            super().connect(addr)
        except OSError:
            self.close()
            raise

    def shutdown(self, how: int) -> None:
        try:
            super().shutdown(how)
        except OSError:
            self.close()
            raise


def explain(error: OSError) -> str:
    """Why a handshake failed, in OpenSSL's words; they hold nothing that the peer chose."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message.rstrip('.')}{_REMEDIES.get(error.verify_code, '')}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return "the connection was closed"


def expires(path: str) -> datetime:
    """When the (first) certificate of a PEM file ends, in UTC.

    Raises
    ------
    ConfigError
        When it is none.
    """
    # Not at the top: only those who use TLS pay for it.
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.load_pem_x509_certificates(Path(path).read_bytes())[0].not_valid_after_utc
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(
            f"{path}: is no certificate in PEM form (-----BEGIN CERTIFICATE-----); convert it by `openssl x509`."
        ) from error


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(CIPHER_SUITES))
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _identify(context: ssl.SSLContext, section: TlsSection) -> None:
    """Our certificate and its key."""
    certificate, key = section.certificate, section.key
    _named("tls.certificate", lambda: expires(certificate))
    try:
        if stat.S_IMODE(os.stat(key).st_mode) & 0o007:
            _log.warning("tls_key_readable_by_all", file=key, remedy=f"chmod o= {key}")
        password = _password(section)
        # Without a password of ours OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"tls.key: {key} is not the key of {certificate}; give the two that were made together."
            ) from error
        raise ConfigError(
            f"tls.key: {key} cannot be read ({explain(error)}): it must be a private key in PEM form; where it is "
            "encrypted, tls.key_password_file names the file with its password."
        ) from error
    except OSError as error:
        raise ConfigError(f"tls.key: {error.filename or key}: {error.strerror}.") from error


def _password(section: TlsSection) -> str:
    name = section.key_password_file
    return Path(name).read_text(encoding="utf-8").strip() if name else ""


def _trust(context: ssl.SSLContext, authorities: str) -> None:
    _named("tls.authorities", lambda: expires(authorities))
    try:
        context.load_verify_locations(authorities)
    except OSError as error:
        raise ConfigError(f"tls.authorities: {authorities}: {explain(error)}.") from error


def _hold_against_lists(context: ssl.SSLContext, section: TlsSection) -> None:
    """Nobody whose certificate was revoked."""
    if crl_file := section.crl_file:
        _named("tls.crl_file", lambda: demand_unrevoked(context, crl_file))


def _named(setting: str, check: Callable[[], object]) -> None:
    try:
        check()
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from error


def _files(section: TlsSection) -> tuple[str, ...]:
    named = (
        *(section.certificate, section.key, section.key_password_file),
        *(section.authorities, section.crl_file),
    )
    return tuple(name for name in named if name)


def _stamp(name: str) -> object:
    """What changes when a file is replaced or written."""
    try:
        status = os.stat(name)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
