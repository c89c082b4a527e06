"""THE LOOP GUARD: what we made, and whatever was made of it, never starts work, whichever way it comes back.

    by name       our name among the contributing equipment, or our software among the versions of who made it
    by root       a UID below our own root, where the hospital has one
    by registry   SOP Instance, Series Instance, Tracking or Device UIDs that we gave, at any depth: a copy whose
                  UIDs a PACS coerced; pictures, key objects, presentation states and reports made of our evidence
    by descent    a reference to an instance that one of these rules found

Objects that scanners make by the thousand are looked at by name and root only, unless they say that they are derived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.index import Index, registered

if TYPE_CHECKING:
    from node.header import ParsedHeader
    from storage.model import HeaderValue

#: Manufacturer (0008,0070) in the Contributing Equipment Sequence of what this product's own pipelines make.
OWN_MANUFACTURER = "OsteoNode"
#: How the node's own entry in Software Versions (0018,1020) begins, whoever wrote the pipeline.
OWN_SOFTWARE = "OsteoNode "
_UUID_ROOT = "2.25"
#: CT, MR, PET, and their enhanced and legacy kinds: what comes by the thousand, and no pipeline makes.
ACQUIRED = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{end}"
    for end in ("2", "2.1", "2.2", "4", "4.1", "4.3", "4.4", "128", "128.1", "130")
)


def may_be_derived(sop_class_uid: str, header: dict[str, tuple[HeaderValue, ...]]) -> bool:
    """Whether an object may have been made of others, so that what it mentions must be looked at."""
    # PS3.3 C.7.6.1.1.2: Value 1 of Image Type.
    return sop_class_uid not in ACQUIRED or header.get("ImageType", ("",))[0] == "DERIVED"


def is_named_ours(header: dict[str, tuple[HeaderValue, ...]]) -> bool:
    """Whether the equipment that made an object is this product."""
    return any(
        isinstance(one, str) and one.startswith(OWN_SOFTWARE)
        for one in header.get("SoftwareVersions", ())
    )


def is_own(parsed: ParsedHeader, index: Index, uid_root: str) -> bool:
    """Whether this node, or another of its kind, made the object, or it was made of one that we made.

    Parameters
    ----------
    uid_root
        Root of the UIDs this node makes. Under 2.25 every UUID of the world lies, not only ours.
    """
    if parsed.is_evidence:
        return True
    if uid_root != _UUID_ROOT:
        ours = f"{uid_root}."
        mine = (parsed.sop_instance_uid, parsed.series_instance_uid, *parsed.mentions)
        if any(uid.startswith(ours) for uid in mine):
            return True
    return bool(parsed.mentions) and registered.is_any(index, parsed.mentions)
