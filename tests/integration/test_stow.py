"""STOW-RS and QIDO-RS over real HTTP: a service that takes all, some or nothing, is busy, gone, or wants a name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from dicomgen import Geometry, make_instance, make_series, save, save_all
from dicomweb import WebArchive
from nodes import Node, free_port, wait_for
from peer import Pacs
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless, RLELossless
from rows import complete, make_workitem

from migrations.commands import upgrade
from node import confirming, qido, scu, stow
from node.cli import main
from node.config import Config
from node.errors import DeliveryError
from node.scu import Outcome, SendItem, SendStatus, read_item
from storage.index import Index, commitments, deliveries, destinations, rules
from storage.model import DeliveryState, Destination, utcnow

NATIVE = "1.2.840.10008.1.2.1"


@pytest.fixture
def archive() -> Iterator[WebArchive]:
    with WebArchive() as made:
        yield made


def make_config(folder: Path, **web: object) -> Config:
    return Config.model_validate(
        {
            "node": {"data": folder},
            "delivery": {
                "timeout_s": 2,
                "backoff_s": 10,
                "max_attempts": 2,
                "web": {"PACS": web},
            },
        }
    )


def to(archive: WebArchive, **fields: Any) -> Destination:
    place = Destination(
        name="PACS", host="127.0.0.1", port=archive.port, called_ae="", url=archive.url
    )
    return replace(place, **fields)


def make_items(folder: Path, count: int = 3) -> list[SendItem]:
    paths = save_all(make_series(geometry=Geometry(slices=count)), folder / "ct")
    return [read_item(path) for path in paths]


def outcomes(statuses: list[SendStatus]) -> list[Outcome]:
    return [one.outcome for one in statuses]


ALL_DELIVERED, ALL_LATER = [Outcome.DELIVERED] * 3, [Outcome.RETRY] * 3


# -- what goes out --------------------------------------------------------------------------------


def test_files_arrive_byte_for_byte_in_one_request(archive: WebArchive, tmp_path: Path) -> None:
    items = make_items(tmp_path)
    told = stow.send(to(archive), items, config=make_config(tmp_path))
    assert outcomes(told) == ALL_DELIVERED
    assert {one.message for one in told} == {"0x0000 Success (HTTP 200 OK)"}
    assert archive.files == {one.sop_instance_uid: one.path.read_bytes() for one in items}
    (asked,) = archive.asked
    assert asked.path == "/dicom-web/studies"
    assert asked.uids == tuple(one.sop_instance_uid for one in items)
    # Orthanc 1.7 throws away what has a transfer-syntax.
    assert set(asked.media_types) == {"application/dicom"}
    assert asked.headers["Accept"] == "application/dicom+json"


def test_a_long_list_goes_in_requests_of_a_few(archive: WebArchive, tmp_path: Path) -> None:
    items = make_items(tmp_path, stow.BATCH + 2)
    told = stow.send(to(archive), items, config=make_config(tmp_path))
    assert [one.sop_instance_uid for one in told] == [one.sop_instance_uid for one in items]
    assert [len(one.uids) for one in archive.asked] == [stow.BATCH, 2]
    assert set(archive.times.values()) == {1}


_SEND_LARGE = """
import resource, sys
from pathlib import Path
from node import sending, stow
from node.config import Config
from node.scu import read_item
from storage.model import Destination
item, config = read_item(Path(sys.argv[2])), Config.model_validate({"node": {"data": sys.argv[3]}})
place = Destination(name="PACS", host="127.0.0.1", port=1, called_ae="", url=sys.argv[1])
import httpx, ssl
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(told,) = stow.send(place, [item], config=config)
print(told.outcome, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_large_instance_is_never_held_in_memory(archive: WebArchive, tmp_path: Path) -> None:
    """200 MB on disk; the process that sends it grows by a tenth of that at most."""
    path = save(make_instance(), tmp_path)
    size = 200_000_000
    with path.open("ab") as file:
        # (FFFC,FFFC) Data Set Trailing Padding, of a length that is told.
        file.write(b"\xfc\xff\xfc\xffOB\x00\x00" + size.to_bytes(4, "little"))
        file.truncate(file.tell() + size)
    done = subprocess.run(
        [sys.executable, "-c", _SEND_LARGE, archive.url, str(path), str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    outcome, grown_kib = done.stdout.split()
    assert outcome == "DELIVERED"
    assert int(grown_kib) * 1024 < size / 10
    assert len(next(iter(archive.files.values()))) == path.stat().st_size


# -- what the answer says -------------------------------------------------------------------------


def test_each_instance_has_its_own_end(archive: WebArchive, tmp_path: Path) -> None:
    items = make_items(tmp_path, 5)
    stored, warned, full, refused, there = (one.sop_instance_uid for one in items)
    archive.warning[warned] = 0xB000
    archive.failing = {full: 0xA700, refused: 0xA900, there: 0x0111}
    told = {one.sop_instance_uid: one for one in stow.send(to(archive), items, config=Config())}
    assert {uid: (one.outcome, one.status) for uid, one in told.items()} == {
        stored: (Outcome.DELIVERED, 0x0000),
        warned: (Outcome.DELIVERED, 0xB000),
        full: (Outcome.RETRY, 0xA700),
        refused: (Outcome.PERMANENT, 0xA900),
        there: (Outcome.DELIVERED, 0x0111),
    }
    assert told[refused].message == (
        "0xA900 Error: Data Set does not match SOP Class (HTTP 202 Accepted)"
    )


def test_a_409_is_read_instance_by_instance(archive: WebArchive, tmp_path: Path) -> None:
    items = make_items(tmp_path)
    archive.failing = dict.fromkeys([one.sop_instance_uid for one in items], 0xC000)
    archive.failing[items[1].sop_instance_uid] = 0x0110
    told = stow.send(to(archive), items, config=make_config(tmp_path))
    assert outcomes(told) == [Outcome.PERMANENT, Outcome.RETRY, Outcome.PERMANENT]
    assert told[0].message.endswith("(HTTP 409 Conflict)")
    assert len(archive.asked) == 1


def test_one_bad_instance_does_not_fail_its_batch(archive: WebArchive, tmp_path: Path) -> None:
    """400 for all of them, then for the second alone."""
    items = make_items(tmp_path)
    bad: tuple[int, dict[str, str]] = (400, {})
    archive.faults = [("POST", bad), ("POST", bad)]
    told = stow.send(to(archive), items, config=make_config(tmp_path))
    assert outcomes(told) == [Outcome.PERMANENT, Outcome.DELIVERED, Outcome.DELIVERED]
    assert [len(one.uids) for one in archive.asked] == [3, 1, 1, 1]


def test_a_batch_that_is_too_large_goes_in_pieces(archive: WebArchive, tmp_path: Path) -> None:
    items = make_items(tmp_path)
    archive.largest = items[0].path.stat().st_size + 1000
    told = stow.send(to(archive), items, config=make_config(tmp_path))
    assert outcomes(told) == ALL_DELIVERED
    archive.largest = 100
    (too_large,) = stow.send(to(archive), items[:1], config=make_config(tmp_path))
    assert too_large.outcome is Outcome.PERMANENT
    assert "must raise the size of a request" in too_large.message


@pytest.mark.parametrize(
    ("fault", "outcome", "said"),
    [
        ((401, {}), Outcome.RETRY, "it wants a credential"),
        ((403, {}), Outcome.PERMANENT, "its administrator must allow"),
        ((404, {}), Outcome.RETRY, "destinations edit PACS --web"),
        ((302, {"Location": "https://elsewhere/"}), Outcome.RETRY, "destinations edit PACS --web"),
        ((500, {}), Outcome.RETRY, "HTTP 500"),
        ("page", Outcome.RETRY, "no Store Instances Response (text/html)"),
        ("drop", Outcome.RETRY, "ended the connection"),
        ("hang", Outcome.RETRY, "does not answer within 2 s"),
    ],
)
def test_a_service_that_takes_nothing_is_asked_once(
    archive: WebArchive, tmp_path: Path, fault: Any, outcome: Outcome, said: str
) -> None:
    archive.faults = [("POST", fault)]
    items = make_items(tmp_path, stow.BATCH + 2)
    told = stow.send(to(archive), items, config=make_config(tmp_path))
    assert set(outcomes(told)) == {outcome}
    assert len(told) == len(items)
    assert all(said in one.message for one in told)
    assert len(archive.asked) == 1


def test_an_answer_without_an_end_is_given_up(archive: WebArchive, tmp_path: Path) -> None:
    archive.faults = [("POST", "flood")]
    told = stow.send(to(archive), make_items(tmp_path), config=make_config(tmp_path))
    assert outcomes(told) == ALL_LATER
    assert "an answer without an end" in told[0].message


def test_what_was_taken_before_it_broke_is_delivered(archive: WebArchive, tmp_path: Path) -> None:
    items = make_items(tmp_path, stow.BATCH + 2)
    archive.faults = [("POST", ""), ("POST", (503, {"Retry-After": "30"}))]
    told = stow.send(to(archive), items, config=make_config(tmp_path))
    assert outcomes(told) == [Outcome.DELIVERED] * stow.BATCH + [Outcome.RETRY] * 2
    assert [one.retry_after_s for one in told[-2:]] == [30.0, 30.0]


def test_a_service_that_is_not_there_is_retried(tmp_path: Path) -> None:
    place = WebArchive(port=free_port())
    told = stow.send(to(place), make_items(tmp_path), config=make_config(tmp_path))
    assert outcomes(told) == ALL_LATER
    assert told[0].message == f"PACS ({place.url}) cannot be reached."


def test_a_file_that_cannot_be_read_now_is_tried_again_and_holds_up_no_other(
    archive: WebArchive, tmp_path: Path
) -> None:
    items = make_items(tmp_path)
    items[1].path.unlink()
    told = stow.send(to(archive), items, config=make_config(tmp_path))
    assert outcomes(told) == [Outcome.DELIVERED, Outcome.RETRY, Outcome.DELIVERED]
    assert "cannot be read" in told[1].message


# -- transfer syntaxes ----------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("by_status", [True, False])
def test_a_compression_that_is_refused_is_undone(
    archive: WebArchive, tmp_path: Path, syntax: str, by_status: bool
) -> None:
    """By 415 for the request, or by Failure Reason 0xC122 for the instance."""
    native = make_instance()
    packed = make_instance()
    packed.compress(syntax, generate_instance_uid=False)
    other = read_item(save(make_instance(instance=2), tmp_path))
    item = replace(read_item(save(packed, tmp_path)), may_decompress=True)
    (archive.unsupported if by_status else archive.syntaxes_refused).add(syntax)
    told = stow.send(to(archive), [item, other], config=make_config(tmp_path))
    assert outcomes(told) == [Outcome.DELIVERED] * 2
    came = tmp_path / "came.dcm"
    came.write_bytes(archive.files[item.sop_instance_uid])
    ds = dcmread(came)
    assert ds.file_meta.TransferSyntaxUID == NATIVE
    assert ds.SOPInstanceUID == native.SOPInstanceUID
    assert (ds.pixel_array == native.pixel_array).all()
    # What was sent to us goes out as it came, or not at all.
    kept = replace(item, may_decompress=False)
    (refused,) = stow.send(to(archive), [kept], config=make_config(tmp_path))
    assert refused.outcome is Outcome.PERMANENT


# -- who we are -----------------------------------------------------------------------------------


def test_a_token_is_shown_and_a_renewed_one_counts_at_once(
    archive: WebArchive, tmp_path: Path
) -> None:
    archive.authorization = "Bearer kite-7731"
    file = tmp_path / "token"
    file.write_text("old-1\n", encoding="utf-8")
    config, items = make_config(tmp_path, token_file=file), make_items(tmp_path)
    old = stow.send(to(archive), items, config=config)
    assert outcomes(old) == ALL_LATER
    assert "renew the credential of [delivery.web.PACS]" in old[0].message
    file.write_text("kite-7731\n", encoding="utf-8")
    told = stow.send(to(archive), items, config=config)
    assert outcomes(told) == ALL_DELIVERED
    assert "kite-7731" not in "".join(one.message for one in (*old, *told))
    file.unlink()
    gone = stow.send(to(archive), items, config=config)
    assert outcomes(gone) == ALL_LATER
    assert f"{file} cannot be read" in gone[0].message


def test_a_client_certificate_is_shown_and_the_service_verified(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "a", "ours"), Authority(tmp_path / "b", "theirs")
    me, pacs = ours.sign("node"), theirs.sign("127.0.0.1")
    items = make_items(tmp_path)
    known = {"certificate": me.certificate, "key": me.key, "ca": theirs.file}
    with WebArchive(identity=pacs, clients_of=ours) as archive:

        def said(**web: object) -> str:
            told = stow.send(to(archive), items, config=make_config(tmp_path, **web))
            assert outcomes(told) == ALL_LATER
            return told[0].message

        good = stow.send(to(archive), items, config=make_config(tmp_path, **known))
        assert outcomes(good) == ALL_DELIVERED
        archive.files.clear()
        assert "certificate not accepted: self-signed" in said() or "unable to get" in said()
        assert "TLS: " in said(ca=theirs.file)
        assert "a certificate or key cannot be read" in said(**known | {"key": theirs.file})
        by_name = replace(to(archive), url=archive.url.replace("127.0.0.1", "localhost"))
        (wrong, *_) = stow.send(by_name, items, config=make_config(tmp_path, **known))
        assert "certificate not accepted: Hostname mismatch" in wrong.message
        assert not archive.files


# -- deliveries: states, waits, read-back ---------------------------------------------------------


def test_a_wait_that_is_asked_for_holds_for_all_that_is_owed(index: Index) -> None:
    destinations.add(index, Destination(name="PACS", host="h", port=1, called_ae="X"), actor="t")
    complete(index, make_workitem(1))
    until = utcnow() + timedelta(seconds=600)
    assert deliveries.put_off(index, "OTHER", until=until) == 0
    assert deliveries.put_off(index, "PACS", until=until) == 2
    # Never sooner than it is due anyway.
    assert deliveries.put_off(index, "PACS", until=until - timedelta(seconds=60)) == 0
    assert {one.next_attempt_at for one in deliveries.list_deliveries(index)} == {until}
    assert deliveries.due_destinations(index, until - timedelta(seconds=1)) == ()


class Bench:
    """An index that owes a SEG and an SR of one workitem to a web archive which is asked to keep them."""

    def __init__(self, index: Index, archive: WebArchive, folder: Path) -> None:
        self.index, self.archive = index, archive
        self.config = make_config(folder)
        destinations.add(index, to(archive, commitment=True), actor="test")
        complete(index, make_workitem(1))
        for one in deliveries.list_deliveries(index):
            deliveries.settle(
                index,
                delivery_id=one.delivery_id,
                state=DeliveryState.SENT,
                status=0,
                message="",
                next_attempt_at=None,
                now=utcnow(),
            )
            ds = make_instance()
            made = one.evidence
            ds.StudyInstanceUID, ds.SeriesInstanceUID = (
                made.study_instance_uid,
                made.series_instance_uid,
            )
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = made.sop_instance_uid
            archive.files[made.sop_instance_uid] = save(ds, folder).read_bytes()

    def confirm(self, *, seconds: float = 0) -> None:
        """Steps until nothing is due, so many seconds from now."""
        now = utcnow() + timedelta(seconds=seconds)
        confirming.open_due(self.config, self.index, now=now)
        while confirming.confirm(self.config, self.index, "PACS", owner="node", now=now):
            pass

    @property
    def states(self) -> dict[str, tuple[DeliveryState, str]]:
        return {
            one.evidence.kind: (one.state, one.message)
            for one in deliveries.list_deliveries(self.index)
        }


@pytest.fixture
def bench(index: Index, archive: WebArchive, tmp_path: Path) -> Bench:
    return Bench(index, archive, tmp_path)


COMMITTED = (DeliveryState.COMMITTED, "Committed: read back by QIDO-RS.")


def test_what_is_found_is_committed(bench: Bench) -> None:
    bench.confirm()
    assert bench.states == {"SEG": COMMITTED, "SR": COMMITTED}
    assert {one.method for one in bench.archive.asked} == {"GET"}
    assert not bench.archive.requests("POST")


def test_what_is_not_found_is_looked_for_until_the_deadline(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (seg,) = (
        one.evidence.sop_instance_uid
        for one in deliveries.list_deliveries(bench.index)
        if one.evidence.kind == "SEG"
    )
    bench.archive.forgotten.add(seg)
    bench.confirm()
    assert bench.states["SR"] == COMMITTED
    assert bench.states["SEG"][0] is DeliveryState.SENT
    (waiting,) = commitments.list_commitments(bench.index)
    assert waiting.reason == "1 instances are not found by QIDO-RS."
    at = waiting.deadline + timedelta(seconds=1)
    monkeypatch.setattr(confirming, "utcnow", lambda: at)
    bench.confirm(seconds=4000)
    assert bench.states["SEG"] == (
        DeliveryState.FAILED,
        "Not committed: read back by QIDO-RS, 0x0112 no such object instance.",
    )


def test_a_service_that_does_not_answer_is_asked_again(bench: Bench) -> None:
    bench.archive.faults = [("GET", (503, {}))]
    bench.confirm()
    assert bench.states["SEG"][0] is DeliveryState.SENT
    (waiting,) = commitments.list_commitments(bench.index)
    assert "QIDO-RS with HTTP 503" in waiting.reason
    bench.confirm(seconds=60)
    assert bench.states["SEG"] == COMMITTED


def test_echo_says_the_status_and_asks_for_nobody(archive: WebArchive, tmp_path: Path) -> None:
    seconds, status = qido.echo(to(archive), config=make_config(tmp_path))
    assert 0 < seconds < 2
    assert status == "HTTP 204 No Content"
    (asked,) = archive.asked
    assert asked.query["StudyInstanceUID"][0].startswith("2.25.")
    archive.faults = [("GET", (403, {}))]
    with pytest.raises(DeliveryError, match="HTTP 403 Forbidden: its administrator must allow"):
        qido.echo(to(archive), config=make_config(tmp_path))


def test_a_web_destination_is_not_asked_by_dimse(archive: WebArchive) -> None:
    with pytest.raises(DeliveryError, match="not asked by DIMSE"):
        scu.echo(to(archive), calling_ae="OSTEONODE", timeout_s=1)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line on an empty database; exit code, output, errors."""
    (tmp_path / "data").mkdir()
    upgrade(f"sqlite:///{tmp_path / 'data' / 'index.sqlite'}")
    config = tmp_path / "config.toml"
    config.write_text("[delivery.web.PACS]\ntoken = 'kite-7731'\n", encoding="utf-8")

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["--config", str(config), *arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def test_the_command_line_adds_edits_and_asks_a_web_destination(
    archive: WebArchive, run: Callable[..., tuple[int, str, str]]
) -> None:
    archive.authorization = "Bearer kite-7731"
    assert run("destinations", "add", "PACS", "--web", f"{archive.url}/", "--commit")[0] == 0
    code, out, _ = run("destinations", "echo", "PACS")
    assert code == 0
    assert f"{archive.url} answers QIDO-RS with HTTP 204 No Content, in " in out
    archive.authorization = "Bearer other"
    code, _, err = run("destinations", "echo", "PACS")
    assert code == 5
    assert "renew the credential of [delivery.web.PACS]" in err
    assert len(err.splitlines()) == 1
    (shown,) = json.loads(run("destinations", "list", "--json")[1])
    assert (shown["url"], shown["port"], shown["commitment"]) == (archive.url, archive.port, True)
    elsewhere = "https://pacs.example.org/dicom-web"
    assert run("destinations", "edit", "PACS", "--web", elsewhere)[0] == 0
    (shown,) = json.loads(run("destinations", "list", "--json")[1])
    assert (shown["url"], shown["host"], shown["port"]) == (elsewhere, "pacs.example.org", 443)
    assert "kite-7731" not in str(shown)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("add", "B"), "give --host and --called"),
        (("add", "B", "--host", "h"), "give --called"),
        (("add", "B", "--web", "https://h/x", "--called", "X"), "--called is for a remote AE"),
        (("add", "B", "--web", "https://h/x", "--tls"), "--tls is for a remote AE"),
        (("add", "B", "--host", "h", "--called", "X", "--plain"), "--plain is for --web"),
        (("add", "B", "--web", "http://h/x"), "clear text"),
        (("add", "B", "--web", "https://me:kite-7731@h/x"), "[delivery.web.NAME]"),
        (("edit", "WEB", "--called", "X"), "is a DICOMweb service, and stays one"),
        (("edit", "AE", "--web", "https://h/x"), "is a remote AE, and stays one"),
    ],
)
def test_options_that_do_not_go_together_are_told(
    run: Callable[..., tuple[int, str, str]], options: tuple[str, ...], said: str
) -> None:
    assert run("destinations", "add", "WEB", "--web", "http://h/x", "--plain")[0] == 0
    assert run("destinations", "add", "AE", "--host", "h", "--called", "X")[0] == 0
    code, _, err = run("destinations", *options)
    assert code == 2
    assert said in " ".join(err.split())
    assert "kite-7731" not in err


def test_a_web_destination_is_not_fetched_from(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("destinations", "add", "WEB", "--web", "https://h/x")[0] == 0
    rule = ("rules", "add", "r", "--pipeline", "ct_skeleton", "--to", "WEB", "--yes")
    where = ("--where", "Modality = CT")
    code, _, err = run(*rule, *where, "--compare-prior", "--prior-from", "WEB")
    assert code == 2
    assert "--prior-from WEB: a DICOMweb service is sent to, not fetched from" in " ".join(
        err.split()
    )


# -- in a node ------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(folder=tmp_path / "node")
    yield made
    made.kill_if_running()


def test_a_dead_web_destination_delays_no_other_and_gets_each_once(
    node: Node, tmp_path: Path
) -> None:
    """One hangs, loses an answer and is busy for a while; another PACS has its results meanwhile."""
    token = tmp_path / "token"
    token.write_text("kite-7731", encoding="utf-8")
    node.settings["OSTEONODE_DELIVERY__WEB"] = json.dumps({"WEB": {"token_file": str(token)}})
    node.settings["OSTEONODE_DELIVERY__TIMEOUT_S"] = "2"
    node.settings["OSTEONODE_NODE__LOG_LEVEL"] = "debug"
    archive = WebArchive(authorization="Bearer kite-7731")
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    archive.faults = [
        ("POST", "hang"), ("POST", "lose"), ("POST", (503, {"Retry-After": soon})),
    ]  # fmt: skip
    with archive, Pacs() as pacs:
        node.start()
        node.route_to(pacs.port)
        with node.index() as index:
            web = to(archive, name="WEB", commitment=True)
            destinations.add(index, web, actor="test")
            rule = rules.get(index, "threshold_bone-PACS")
            rules.edit(index, replace(rule, destinations=("PACS", "WEB")), actor="test")
        paths = save_all(make_series(geometry=Geometry(slices=8)), tmp_path / "ct")
        us = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
        list(scu.send_paths(us, paths, calling_ae="CT1", timeout_s=20))

        def states(name: str) -> list[DeliveryState]:
            with node.index() as index:
                found = deliveries.list_deliveries(index, destination=name)
            return [one.state for one in found]

        wait_for("the PACS has both", lambda: states("PACS") == [DeliveryState.SENT] * 2)
        assert DeliveryState.COMMITTED not in states("WEB")
        wait_for("COMMITTED", lambda: states("WEB") == [DeliveryState.COMMITTED] * 2)
    assert len(archive.files) == 2
    assert not archive.faults
    assert "kite-7731" not in node.log
