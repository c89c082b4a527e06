"""The seam `send`: a batch goes to a destination by what it is, a remote AE or a DICOMweb service."""

from __future__ import annotations

from collections.abc import Sequence

from node import scu, stow
from node.config import Config
from node.scu import SendItem, SendStatus
from node.tls import Dialer
from storage.model import Destination


def send(
    destination: Destination, items: Sequence[SendItem], *, config: Config, dialer: Dialer
) -> list[SendStatus]:
    """One status per item, in their order, whatever happens on the way.

    Parameters
    ----------
    dialer
        How a remote AE that wants TLS is connected to.
    """
    if destination.is_web:
        return stow.send(destination, items, config=config)
    return scu.send(
        destination,
        items,
        calling_ae=config.node.ae_title,
        timeout_s=config.delivery.timeout_s,
        dialer=dialer,
    )
