"""Certificates that were revoked: nobody comes in with one, nothing goes out to one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from certificates import Authority, Files
from listeners import Listener, listening
from structlog.testing import capture_logs

from node import scu
from node.config import Config, TlsSection
from node.errors import ConfigError, DeliveryError
from node.tls import Dialer, acceptor
from storage.model import Destination

ROOT = Path(__file__).parents[2]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


def _section(authority: Authority, files: Files, crl_file: Path | str = "") -> dict[str, object]:
    return {
        "certificate": str(files.certificate),
        "key": str(files.key),
        "authorities": str(authority.file),
        "crl_file": str(crl_file),
    }


def _dialer(authority: Authority, files: Files, crl_file: Path | str = "") -> Dialer:
    return Dialer(TlsSection.model_validate(_section(authority, files, crl_file)))


def _echo(port: int, by: Dialer) -> float:
    peer = Destination(name="PEER", host="127.0.0.1", port=port, called_ae="OSTEONODE", tls=True)
    return scu.echo(peer, calling_ae="SENDER", timeout_s=5, dialer=by)


def _refusal(listener: Listener, by: Dialer) -> str:
    with pytest.raises(DeliveryError):
        _echo(listener.tls_port, by)
    return str(listener.wait_for_event("connection-refused").detail["reason"])


def test_a_sender_whose_certificate_was_revoked_is_refused_and_told(
    authority: Authority, tmp_path: Path
) -> None:
    good, lost = authority.sign("good"), authority.sign("lost")
    tls = _section(authority, authority.sign("127.0.0.1"), authority.revoke(lost))
    with listening(tmp_path, tls=tls) as running:
        assert _echo(running.tls_port, _dialer(authority, good)) > 0
        reason = _refusal(running, _dialer(authority, lost))
        assert reason == "TLS: certificate not accepted: certificate revoked"


def test_a_new_list_counts_from_the_next_connection(authority: Authority, tmp_path: Path) -> None:
    sender = _dialer(authority, files := authority.sign("sender"))
    tls = _section(authority, authority.sign("127.0.0.1"), authority.revoke())
    with listening(tmp_path, tls=tls) as running:
        assert _echo(running.tls_port, sender) > 0
        list_file = authority.revoke(files)
        assert _refusal(running, sender).endswith("certificate revoked")
        # What cannot be read leaves the one before in force.
        list_file.write_bytes(b"half a file")
        with capture_logs() as lines, pytest.raises(DeliveryError):
            _echo(running.tls_port, sender)
        (told,) = (line for line in lines if line["event"] == "tls_files_not_usable")
        assert "tls.crl_file" in told["reason"]
        authority.revoke()
        assert _echo(running.tls_port, sender) > 0


def test_a_list_that_is_over_keeps_everybody_out_and_says_what_to_do(
    authority: Authority, tmp_path: Path
) -> None:
    tls = _section(authority, authority.sign("127.0.0.1"), authority.revoke(days=-1))
    with listening(tmp_path, tls=tls) as running:
        reason = _refusal(running, _dialer(authority, authority.sign("good")))
    assert reason == (
        "TLS: certificate not accepted: CRL has expired (tls.crl_file needs the authority's new list)"
    )


def test_an_authority_without_a_list_is_not_accepted(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "others", "others")
    tls = _section(authority, authority.sign("127.0.0.1"), other.revoke())
    with listening(tmp_path, tls=tls) as running:
        reason = _refusal(running, _dialer(authority, authority.sign("good")))
    assert "unable to get certificate CRL (tls.crl_file has no list of its authority" in reason


def test_a_destination_whose_certificate_was_revoked_gets_nothing(
    authority: Authority, tmp_path: Path
) -> None:
    ours, theirs = authority.sign("node"), authority.sign("127.0.0.1")
    with listening(tmp_path, tls=_section(authority, theirs)) as running:
        good = _dialer(authority, ours, authority.revoke())
        assert _echo(running.tls_port, good) > 0
        authority.revoke(theirs)
        with pytest.raises(DeliveryError, match="certificate not accepted: certificate revoked"):
            _echo(running.tls_port, good)


def test_each_bad_list_is_named_with_its_remedy(authority: Authority, tmp_path: Path) -> None:
    files = authority.sign("a")

    def complaint(path: Path) -> str:
        section = TlsSection.model_validate(_section(authority, files, path))
        with pytest.raises(ConfigError) as caught:
            acceptor(section).current()
        return str(caught.value)

    none, junk, mixed = tmp_path / "none.crl", tmp_path / "junk.crl", tmp_path / "mixed.crl"
    assert complaint(none) == f"tls.crl_file: {none}: No such file or directory"
    junk.write_bytes(b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
    assert "cannot be read" in complaint(junk)
    junk.write_bytes(b"\x30\x82")
    assert "openssl crl" in complaint(junk)
    # A certificate in it would be trusted as an authority.
    stranger = Authority(tmp_path / "others", "others").file.read_bytes()
    mixed.write_bytes(authority.revoke().read_bytes() + stranger)
    assert "go to tls.authorities" in complaint(mixed)
    with pytest.raises(ValueError, match="crl_file needs authorities"):
        Config.model_validate({"tls": {"crl_file": "a.crl"}})


def test_config_check_says_until_when_lists_are_valid(authority: Authority) -> None:
    authority.revoke(authority.sign("node"))
    config = authority.file.parent / "config.toml"
    # Relative to the file.
    config.write_text(
        '[tls]\nauthorities = "hospital.ca.crt"\ncrl_file = "hospital.ca.crl"\n', encoding="utf-8"
    )

    def check() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "node.cli", "--config", str(config), "config", "check"],
            check=False, capture_output=True, text=True, timeout=60,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    good = check()
    assert good.returncode == 0, good.stderr
    assert "revoked    lists of" in good.stdout
    assert "valid until 20" in good.stdout
    authority.revoke(days=-1)
    over = check()
    assert over.returncode == 3
    assert "is over: nobody of its authority is accepted" in over.stderr
