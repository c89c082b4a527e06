"""DICOM over TLS: both directions, with DCMTK and by ourselves; who is refused, and how that is told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from certificates import Authority, Files
from dicomgen import Geometry, make_instance, make_series, make_uid, save, save_all
from listeners import Listener, listening
from nodes import free_port, wait_for
from structlog.testing import capture_logs

from node import scu
from node.config import TlsSection
from node.errors import ConfigError, DeliveryError
from node.tls import Dialer, acceptor
from storage.index import instances, studies
from storage.model import Destination


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


def section(authority: Authority, files: Files, **more: object) -> dict[str, object]:
    return {
        "certificate": str(files.certificate),
        "key": str(files.key),
        "authorities": str(authority.file),
        **more,
    }


@pytest.fixture
def listener(authority: Authority, tmp_path: Path) -> Iterator[Listener]:
    """One that asks everybody for a certificate."""
    tls = section(authority, authority.sign("127.0.0.1"))
    with listening(tmp_path, tls=tls) as running:
        yield running


def destination(port: int, host: str = "127.0.0.1") -> Destination:
    return Destination(name="PEER", host=host, port=port, called_ae="OSTEONODE", tls=True)


def dialer(authority: Authority, files: Files | None = None) -> Dialer:
    if files is None:
        return Dialer(TlsSection(authorities=str(authority.file)))
    return Dialer(TlsSection.model_validate(section(authority, files)))


def echo(port: int, by: Dialer | None, host: str = "127.0.0.1") -> float:
    return scu.echo(destination(port, host), calling_ae="SENDER", timeout_s=5, dialer=by)


def dcmtk(authority: Authority, files: Files) -> list[str]:
    return ["+tls", str(files.key), str(files.certificate), "+cf", str(authority.file)]


# -- as acceptor --------------------------------------------------------------------------------


@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize("profile", ["--profile-bcp195-nd", "--profile-bcp195-ex"])
def test_dcmtk_stores_over_tls(
    listener: Listener, authority: Authority, tmp_path: Path, profile: str
) -> None:
    save_all(make_series(), tmp_path / "in")
    subprocess.run(
        [
            *("/usr/bin/storescu", "+sd", profile, *dcmtk(authority, authority.sign("ct"))),
            *("-aec", "OSTEONODE", "127.0.0.1", str(listener.tls_port), str(tmp_path / "in")),
        ],
        check=True,
        timeout=60,
    )
    assert studies.get(listener.index, make_uid(1, 1)).instance_count == 4


def test_an_instance_of_many_records_comes_whole(
    listener: Listener, authority: Authority, tmp_path: Path
) -> None:
    """4 MB in PDUs of 128 KiB, each of several TLS records: what OpenSSL has read ahead must not be waited for."""
    ds = make_instance(geometry=Geometry(rows=1448, columns=1448))
    item = scu.read_item(save(ds, tmp_path / "in"))
    (sent,) = scu.send(
        destination(listener.tls_port),
        [item],
        calling_ae="SENDER",
        timeout_s=10,
        dialer=dialer(authority, authority.sign("sender")),
    )
    assert sent.status == 0x0000, sent.message
    assert instances.get(listener.index, ds.SOPInstanceUID).size > 4_000_000


def other_authority(authority: Authority, folder: Path) -> Files:
    del authority
    return Authority(folder / "others", "others").sign("sender")


def expired(authority: Authority, folder: Path) -> Files:
    del folder
    return authority.sign("sender", days=-1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (other_authority, "TLS: certificate not accepted: unable to get local issuer certificate"),
        (expired, "TLS: certificate not accepted: certificate has expired"),
        (None, "TLS: peer did not return a certificate"),
    ],
    ids=["other authority", "expired", "none"],
)
def test_a_sender_without_a_good_certificate_is_refused_and_told(
    listener: Listener,
    authority: Authority,
    tmp_path: Path,
    make: object,
    reason: str,
) -> None:
    files = make(authority, tmp_path) if callable(make) else None
    with capture_logs() as lines:
        with pytest.raises(DeliveryError, match="PEER"):
            echo(listener.tls_port, dialer(authority, files))
        event = listener.wait_for_event("connection-refused")
    assert (event.actor, event.outcome) == ("127.0.0.1", "failure")
    assert event.detail["reason"] == reason
    told = {line["event"]: line for line in lines}["connection_refused"]
    assert (told["address"], told["reason"]) == ("127.0.0.1", reason)
    # And the next one is served.
    assert echo(listener.tls_port, dialer(authority, authority.sign("good"))) > 0


def test_what_is_no_tls_is_refused_and_nobody_waits_for_it(
    listener: Listener, authority: Authority
) -> None:
    with socket.create_connection(("127.0.0.1", listener.tls_port)) as silent:
        # A handshake that never begins: others are served meanwhile.
        assert echo(listener.tls_port, dialer(authority, authority.sign("good"))) < 5
        silent.sendall(b"\x01\x00\x00\x00\x00\xcd" + b"\x00" * 205)
        silent.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            while silent.recv(4096):
                pass
    event = listener.wait_for_event("connection-refused")
    assert str(event.detail["reason"]).startswith("TLS: ")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_versions_are_refused(
    listener: Listener, authority: Authority, version: ssl.TLSVersion
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = context.maximum_version = version
    context.load_verify_locations(authority.file)
    with (
        socket.create_connection(("127.0.0.1", listener.tls_port)) as raw,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(raw, server_hostname="127.0.0.1")
    event = listener.wait_for_event("connection-refused")
    assert event.detail["reason"] == "TLS: unsupported protocol"


def test_a_suite_of_no_profile_is_refused(listener: Listener, authority: Authority) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305")
    context.load_verify_locations(authority.file)
    with (
        socket.create_connection(("127.0.0.1", listener.tls_port)) as raw,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(raw, server_hostname="127.0.0.1")
    assert listener.wait_for_event("connection-refused").detail["reason"] == "TLS: no shared cipher"


def test_without_mutual_no_certificate_is_asked_for(authority: Authority, tmp_path: Path) -> None:
    tls = section(authority, authority.sign("127.0.0.1"), mutual=False)
    with listening(tmp_path, tls=tls) as running:
        assert echo(running.tls_port, dialer(authority)) > 0


def test_only_tls_leaves_the_plain_port_closed(authority: Authority, tmp_path: Path) -> None:
    tls = section(authority, authority.sign("127.0.0.1"), only=True)
    with listening(tmp_path, tls=tls) as running:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", running.port))
        own = TlsSection.model_validate(tls)
        assert echo(running.tls_port, Dialer(own, to_self=True), "localhost") > 0


def test_a_new_certificate_counts_from_the_next_connection(
    authority: Authority, tmp_path: Path
) -> None:
    files = authority.sign("127.0.0.1", file="node")
    ours = dialer(authority, authority.sign("sender"))
    with listening(tmp_path, tls=section(authority, files)) as running:
        assert echo(running.tls_port, ours) > 0
        # Renewed in two steps: the key does not fit for a moment, and the old pair goes on.
        key = files.key.read_bytes()
        authority.sign("localhost", file="node")
        new_key = files.key.read_bytes()
        files.key.write_bytes(key)
        with capture_logs() as lines:
            assert echo(running.tls_port, ours) > 0
        (told,) = (line for line in lines if line["event"] == "tls_files_not_usable")
        assert "is not the key of" in told["reason"]
        files.key.write_bytes(new_key)
        with pytest.raises(DeliveryError, match="IP address mismatch"):
            echo(running.tls_port, ours)
        assert echo(running.tls_port, ours, "localhost") > 0


# -- as requestor -------------------------------------------------------------------------------


@contextmanager
def storescp(authority: Authority, files: Files, folder: Path) -> Iterator[int]:
    port = free_port()
    folder.mkdir()
    options = ["-od", str(folder), *dcmtk(authority, files)]
    with subprocess.Popen(["/usr/bin/storescp", *options, str(port)]) as process:

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            wait_for("storescp", answers, 15)
            yield port
        finally:
            process.terminate()


@pytest.mark.peer("dcmtk")
def test_a_series_goes_to_dcmtk_over_tls(authority: Authority, tmp_path: Path) -> None:
    items = [scu.read_item(path) for path in save_all(make_series(), tmp_path / "in")]
    by = dialer(authority, authority.sign("node"))
    with storescp(authority, authority.sign("127.0.0.1"), tmp_path / "out") as port:
        assert echo(port, by) > 0
        sent = scu.send(destination(port), items, calling_ae="A", timeout_s=10, dialer=by)
    assert [status.status for status in sent] == [0, 0, 0, 0]
    assert len(list((tmp_path / "out").iterdir())) == 4


@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize(
    ("name", "days", "message"),
    [("pacs.example.org", 30, "IP address mismatch"), ("127.0.0.1", -1, "has expired")],
)
def test_a_destination_that_is_not_who_it_should_be_gets_nothing(
    authority: Authority, tmp_path: Path, name: str, days: float, message: str
) -> None:
    item = scu.read_item(save(make_instance(), tmp_path / "in"))
    by = dialer(authority, authority.sign("node"))
    with storescp(authority, authority.sign(name, days=days), tmp_path / "out") as port:
        (sent,) = scu.send(destination(port), [item], calling_ae="A", timeout_s=10, dialer=by)
    assert sent.outcome is scu.Outcome.RETRY
    assert message in sent.message
    assert not list((tmp_path / "out").iterdir())


def test_a_destination_of_another_authority_is_not_trusted(
    listener: Listener, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "others", "others")
    with pytest.raises(DeliveryError, match="TLS: certificate not accepted: "):
        echo(listener.tls_port, dialer(stranger))


def test_a_destination_that_wants_tls_is_never_reached_without(listener: Listener) -> None:
    with pytest.raises(DeliveryError, match="wants TLS"):
        echo(listener.port, None)


def test_a_plain_port_is_not_taken_for_tls(listener: Listener, authority: Authority) -> None:
    with pytest.raises(DeliveryError, match="TLS"):
        echo(listener.port, dialer(authority, authority.sign("sender")))


# -- files that cannot be used ------------------------------------------------------------------


def test_each_bad_file_is_named_with_its_remedy(authority: Authority, tmp_path: Path) -> None:
    word = "secret word"
    good, other = authority.sign("a"), authority.sign("b")
    locked = authority.sign("c", password=word)
    junk = tmp_path / "junk.pem"
    junk.write_text("no PEM", encoding="utf-8")
    password = tmp_path / "password"
    password.write_text(f"{word}\n", encoding="utf-8")

    def complaint(**change: object) -> str:
        merged = TlsSection.model_validate(section(authority, good) | change)
        with pytest.raises(ConfigError) as caught:
            acceptor(merged).current()
        return str(caught.value)

    assert complaint(certificate=str(tmp_path / "none.crt")) == (
        f"tls.certificate: {tmp_path / 'none.crt'}: No such file or directory"
    )
    assert complaint(certificate=str(junk)).startswith(
        f"tls.certificate: {junk}: is no certificate"
    )
    assert complaint(authorities=str(junk)).startswith(
        f"tls.authorities: {junk}: is no certificate"
    )
    assert complaint(key=str(tmp_path / "none.key")).startswith(f"tls.key: {tmp_path / 'none.key'}")
    assert "is not the key of" in complaint(key=str(other.key))
    assert "key_password_file" in complaint(
        certificate=str(locked.certificate), key=str(locked.key)
    )
    whole = section(authority, locked, key_password_file=str(password))
    assert isinstance(acceptor(TlsSection.model_validate(whole)).current(), ssl.SSLContext)


def test_a_key_that_everybody_can_read_is_told(authority: Authority) -> None:
    files = authority.sign("a")
    files.key.chmod(0o644)
    with capture_logs() as lines:
        acceptor(TlsSection.model_validate(section(authority, files))).current()
    (told,) = lines
    assert told["event"] == "tls_key_readable_by_all"
    assert told["file"] == str(files.key)
