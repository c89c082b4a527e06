"""The IHE Integration Statement: profiles, actors, and what of them is there.

References
----------
IHE Radiology, AI Results (AIR) Rev. 1.3, sections 6.5.3.1 to 6.5.3.8; AI Workflow for Imaging (AIW-I).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from node.commitment import PUSH_MODEL
from node.conformance.iods import OF_PIPELINE, Iod
from node.conformance.network import Network

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
_KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """Something an actor does, and whether this version does it."""

    name: str
    #: Transaction or section.
    reference: str
    supported: bool
    #: How, or what is missing.
    remark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """An actor of a profile."""

    profile: str
    name: str
    transactions: tuple[Capability, ...]
    #: Result primitives, where the profile has them.
    content: tuple[Capability, ...] = ()

    @property
    def supported(self) -> bool:
        """Whether every transaction that the profile requires of it is there."""
        return all(item.supported for item in self.transactions)


def read_actors(
    network: Network, iods: Sequence[Iod], worklists: Sequence[str]
) -> tuple[Actor, ...]:
    """The actors that the node is, or is on its way to.

    Parameters
    ----------
    worklists
        Names of the worklists that it takes work from.
    """
    return _evidence_creator(network, iods), _task_performer(worklists)


def _evidence_creator(network: Network, iods: Sequence[Iod]) -> Actor:
    classes = {iod.sop_class.uid for iod in iods}
    nodes = {element.path[-1] for iod in iods for element in iod.content}
    points = {e.value for iod in iods for e in iod.content if " SCOORD" in f" {e.path[-1]}"}
    attributes = {
        element.path[-1] for iod in iods for module in iod.modules for element in module.elements
    }
    tracked = "Tracking UID" in attributes and any("(112040, DCM" in node for node in nodes)
    sections = (
        (
            "Qualitative Findings",
            "6.5.3.2",
            f"CONTAINS CODE {OF_PIPELINE}" in nodes,
            "TID 1500, coded",
        ),
        ("Measurements", "6.5.3.3", f"CONTAINS NUM {OF_PIPELINE}" in nodes, "TID 1411, TID 1501"),
        ("Locations", "6.5.3.4", bool(points & {"POINT", "MULTIPOINT"}), "no points are made"),
        ("Regions", "6.5.3.5", bool(classes & set(_SEGMENTATIONS)), "Segmentation"),
        ("Parametric Maps", "6.5.3.6", _PARAMETRIC_MAP in classes, "none are made"),
        ("Tracking Identifiers", "6.5.3.7", tracked, "the same UID in Segmentation and SR"),
        ("Image References", "6.5.3.8", _KEY_OBJECTS in classes, "no Key Object Selection is made"),
    )
    proposed = {context.abstract_syntax.uid for context in network.proposed}
    commitment = PUSH_MODEL in proposed
    return Actor(
        profile="AI Results (AIR)",
        name="Evidence Creator",
        transactions=(
            Capability(
                name="Evidence Documents Stored",
                reference="RAD-43",
                supported=classes <= proposed,
                remark="C-STORE of every object made",
            ),
            Capability(
                name="Storage Commitment",
                reference="RAD-10",
                supported=commitment,
                remark="where a destination is asked for it",
            ),
        ),
        content=tuple(
            Capability(
                name=name, reference=section, supported=there, remark=_remark(remark, there=there)
            )
            for name, section, there, remark in sections
        ),
    )


def _remark(remark: str, *, there: bool) -> str:
    """What is missing is said only where it is missing."""
    return "" if there and remark.startswith(("no ", "none ")) else remark


def _task_performer(worklists: Sequence[str]) -> Actor:
    there = bool(worklists)
    named = f"UPS-RS, worklist {', '.join(worklists)}"
    return Actor(
        profile="AI Workflow for Imaging (AIW-I)",
        name="Task Performer",
        transactions=(
            Capability(
                name="Query, claim, update and complete UPS workitems",
                reference="RAD-81 to RAD-85",
                supported=there,
                remark=named if there else "no worklist is configured ([ups.worklists])",
            ),
        ),
    )
