"""STOW-RS to a real archive: Orthanc with its DICOMweb plug-in, stopped and started, read back by QIDO-RS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from dicomgen import Geometry, make_instance, make_series, save, save_all
from nodes import Node, wait_for
from orthanc import DICOMWEB, Orthanc, make_orthanc, running_orthanc
from pydicom import dcmread
from pydicom.uid import RLELossless

from node import qido, stow
from node.config import Config
from node.errors import DeliveryError
from node.scu import Outcome, read_item, send_paths
from storage.index import deliveries, destinations
from storage.model import Delivery, DeliveryState, Destination

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.peer("orthanc-dicomweb")]

USER, PASSWORD = "osteonode", "lute-5520"
WITH_USER = {"AuthenticationEnabled": True, "RegisteredUsers": {USER: PASSWORD}}


def web(orthanc: Orthanc) -> Destination:
    return Destination(
        name="PACS",
        host="127.0.0.1",
        port=orthanc.http_port,
        called_ae="",
        url=f"http://127.0.0.1:{orthanc.http_port}/dicom-web",
        commitment=True,
    )


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(folder=tmp_path / "node")
    yield made
    made.kill_if_running()


def owed(node: Node) -> tuple[Delivery, ...]:
    with node.index() as index:
        return deliveries.list_deliveries(index)


def test_evidence_arrives_once_although_the_archive_was_away(node: Node, tmp_path: Path) -> None:
    """It is down when the results are made, comes, goes and comes again: each instance is there once, COMMITTED."""
    orthanc, folder = make_orthanc(), tmp_path / "orthanc"
    node.start()
    node.route_to(104)
    with node.index() as index:
        place = web(orthanc)
        changes = {"url": place.url, "host": place.host, "port": place.port, "called_ae": ""}
        destinations.edit(index, "PACS", {**changes, "commitment": True}, actor="test")
    paths = save_all(make_series(geometry=Geometry(slices=8)), tmp_path / "ct")
    us = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    list(send_paths(us, paths, calling_ae="CT1", timeout_s=20))
    wait_for("an attempt in vain", lambda: owed(node) and all(one.attempts for one in owed(node)))
    assert {one.state for one in owed(node)} == {DeliveryState.PENDING}
    with running_orthanc(folder, plugins=[DICOMWEB], orthanc=orthanc):
        wait_for("SENT", lambda: any(one.state is DeliveryState.SENT for one in owed(node)))
    with running_orthanc(folder, plugins=[DICOMWEB], orthanc=orthanc):
        wait_for(
            "COMMITTED",
            lambda: {one.state for one in owed(node)} == {DeliveryState.COMMITTED},
        )
        # Sent once more, as a node does whose index was restored from before.
        with node.index() as index:
            for one in owed(node):
                deliveries.retry(index, delivery_id=one.delivery_id, actor="test")
        wait_for(
            "COMMITTED again",
            lambda: {one.state for one in owed(node)} == {DeliveryState.COMMITTED},
        )
        held = [
            ds
            for one in {one.evidence.study_instance_uid for one in owed(node)}
            for ds in orthanc.instances_of(one)
        ]
    assert {one.message for one in owed(node)} == {"Committed: read back by QIDO-RS."}
    assert sorted(ds.SOPInstanceUID for ds in held) == sorted(
        one.evidence.sop_instance_uid for one in owed(node)
    )
    assert {ds.Modality for ds in held} == {"SEG", "SR"}


def test_orthanc_keeps_what_is_sent_byte_for_byte(tmp_path: Path) -> None:
    """In its own transfer syntax; a user and a password are asked for, and a wrong one is told from a right one."""
    packed = make_instance()
    packed.compress(RLELossless, generate_instance_uid=False)
    items = [
        read_item(save(packed, tmp_path)),
        read_item(save(make_instance(instance=2), tmp_path)),
    ]
    with running_orthanc(tmp_path / "orthanc", plugins=[DICOMWEB], settings=WITH_USER) as orthanc:

        def config(password: str) -> Config:
            named = {"PACS": {"user": USER, "password": password}}
            return Config.model_validate({"node": {"data": tmp_path}, "delivery": {"web": named}})

        refused = stow.send(web(orthanc), items, config=config("wrong"))
        assert {one.outcome for one in refused} == {Outcome.RETRY}
        assert "renew the credential of [delivery.web.PACS]" in refused[0].message
        with pytest.raises(DeliveryError, match="HTTP 401"):
            qido.echo(web(orthanc), config=config("wrong"))
        told = stow.send(web(orthanc), items, config=config(PASSWORD))
        assert [(one.outcome, one.status) for one in told] == [(Outcome.DELIVERED, 0x0000)] * 2
        again = stow.send(web(orthanc), items, config=config(PASSWORD))
        assert {one.outcome for one in again} == {Outcome.DELIVERED}
        _, status = qido.echo(web(orthanc), config=config(PASSWORD))
        assert status.startswith("HTTP 20")
        assert sorted(kept(orthanc)) == sorted(item.path.read_bytes() for item in items)
    assert dcmread(items[0].path).file_meta.TransferSyntaxUID == RLELossless


def kept(orthanc: Orthanc) -> list[bytes]:
    """The files it has."""
    url = f"http://127.0.0.1:{orthanc.http_port}"
    with httpx.Client(base_url=url, auth=(USER, PASSWORD)) as http:
        return [http.get(f"/instances/{one}/file").content for one in http.get("/instances").json()]
