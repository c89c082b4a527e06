"""A listener in this process, with what it keeps and what it says in the audit log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nodes import free_port, wait_for
from pynetdicom import AE, build_context
from pynetdicom.association import Association

from migrations.commands import upgrade
from node.config import Config
from node.scp import Scp
from storage.archive import Archive
from storage.index import Index, events, open_index
from storage.model import Event

VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A running SCP."""

    index: Index
    port: int
    tls_port: int

    def wait_for_event(self, kind: str) -> Event:
        """The only event of a kind, which may still be to come."""
        wait_for(f"an event {kind}", lambda: events.list_events(self.index, kind=kind), 15)
        (found,) = events.list_events(self.index, kind=kind)
        return found


@contextmanager
def listening(folder: Path, **sections: Mapping[str, object]) -> Iterator[Listener]:
    """Listen with these settings, by section."""
    url = f"sqlite:///{folder / 'index.sqlite'}"
    upgrade(url)
    port, tls_port = free_port(), free_port()
    settings = {
        **sections,
        "node": {"host": "127.0.0.1", "port": port},
        "tls": {"port": tls_port, **sections.get("tls", {})},
    }
    index = open_index(url)
    try:
        with Scp(Config.model_validate(settings), Archive(str(folder / "archive")), index):
            yield Listener(index=index, port=port, tls_port=tls_port)
    finally:
        index.close()


def associate(port: int, *sop_classes: str, calling: str = "MODALITY") -> Association:
    """Ask for an association, in the clear."""
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = 20
    contexts = [build_context(uid, EXPLICIT) for uid in sop_classes or (VERIFICATION,)]
    return ae.associate("127.0.0.1", port, contexts=contexts, ae_title="OSTEONODE")
