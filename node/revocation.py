"""Certificates that their authority has taken back: revocation lists, RFC 5280 5.

With `[tls] crl_file` each certificate of a peer, and each between it and its authority, must be on none of the lists;
and each authority must have a list that is still valid. Where one is missing or over nobody of that authority gets in:
a list that could be kept away would be none.
"""

from __future__ import annotations

import re
import ssl
from datetime import datetime
from pathlib import Path

from node.errors import ConfigError

_LIST = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_CERTIFICATE = re.compile(rb"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----")


def demand_unrevoked(context: ssl.SSLContext, path: str) -> None:
    """Let peers of this context be held against the lists of a PEM file.

    Raises
    ------
    ConfigError
        When they cannot be read.
    """
    lists_expire(path)
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def lists_expire(path: str) -> datetime:
    """When the first of the lists of a PEM file is over (Next Update), in UTC.

    Raises
    ------
    ConfigError
        When there is none, one that cannot be read, or a certificate among them, which would be an authority then.
    """
    # Not at the top: only those who use TLS pay for it.
    from cryptography import x509  # noqa: PLC0415

    try:
        content = Path(path).read_bytes()
        lists = [x509.load_pem_x509_crl(pem) for pem in _LIST.findall(content)]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: holds a revocation list that cannot be read") from error
    if not lists:
        raise ConfigError(
            f"{path}: holds no revocation list in PEM form (-----BEGIN X509 CRL-----); convert it by "
            "`openssl crl -inform DER -outform PEM`"
        )
    if _CERTIFICATE.search(content):
        raise ConfigError(
            f"{path}: holds a certificate; those of authorities go to tls.authorities"
        )
    # Without Next Update a list is valid for ever to OpenSSL (RFC 5280 5.1.2.5 wants one).
    ends = [one.next_update_utc for one in lists if one.next_update_utc is not None]
    return min(ends, default=datetime.max.replace(tzinfo=lists[0].last_update_utc.tzinfo))
