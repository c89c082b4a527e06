"""The annexes of the statement as Markdown: IODs, SR content, security, mapping, codes, and IHE's statement."""

from __future__ import annotations

from collections.abc import Sequence

from node.conformance.examples import Origin
from node.conformance.iods import Element, Iod, Module
from node.conformance.network import Named
from node.conformance.statement import Statement
from node.conformance.terminology import UsedCode
from node.conformance.text import table, yes

_ORIGINS = {
    Origin.SOURCE: "the images analysed",
    Origin.CONFIGURATION: "the configuration",
    Origin.PIPELINE: "the pipeline: its manifest, and the model",
    Origin.RESULT: "the result: what was found and measured",
    Origin.TIME: "when the analysis started",
}
#: A UID or an index made for the object, or a value that differs from item to item.
_GENERATED = "generated"
_COLUMNS = ("Attribute", "Tag", "VR", "Presence", "Source", "Value")


def write_annexes(statement: Statement) -> str:
    """Annexes A to F."""
    return "\n".join(
        (
            _iods(statement),
            _content(statement.iods),
            _mapping(statement.iods),
            _codes(statement.codes),
            _integration(statement),
        )
    )


def _iods(statement: Statement) -> str:
    shared = _shared(statement.iods)
    origins = "\n".join(f"- {origin}: {meaning}" for origin, meaning in _ORIGINS.items())
    parts = [
        f"""\
## Annex A Information object definitions

The tables are observed on objects made of computed images, of which one thing was changed at a time. Presence:
ALWAYS; ANAP, the attribute is not always there; VNAP, it may be empty; EMPTY, it always is. Source, what the value
follows:

{origins}
- {_GENERATED}: made for the object, or counted in it

A value is given where it is always the same. `>` is an attribute of an item of the sequence above.

### A.1 Attributes shared by the objects
""",
        *(_module(module) for module in shared),
    ]
    for number, iod in enumerate(statement.iods, start=2):
        own = [module for module in iod.modules if module not in shared]
        private = "some" if iod.has_private_attributes else "none"
        parts.append(
            f"### A.{number} {iod.sop_class.name}\n\n"
            f"{iod.sop_class.uid}, in {_listed(iod.transfer_syntaxes)}. "
            f"Private attributes: {private}. A series of its own.\n"
        )
        parts += [_module(module) for module in own]
    return "\n".join(parts)


def _listed(syntaxes: Sequence[Named]) -> str:
    return ", or ".join(f"{one.name} ({one.uid})" for one in syntaxes)


def _shared(iods: Sequence[Iod]) -> list[Module]:
    """Modules that are the same in all."""
    if len(iods) < 2:
        return []
    return [
        module for module in iods[0].modules if all(module in other.modules for other in iods[1:])
    ]


def _module(module: Module) -> str:
    rows = (
        (
            ">" * (len(element.path) - 1) + element.path[-1],
            element.tag,
            element.vr,
            element.presence,
            _source(element),
            "copied whole" if element.is_copy else element.value,
        )
        for element in module.elements
    )
    return f"**{module.name}**\n\n{table(_COLUMNS, rows)}\n"


def _source(element: Element) -> str:
    if element.origins:
        return ", ".join(element.origins)
    return "" if element.value or element.presence == "EMPTY" else _GENERATED


def _content(iods: Sequence[Iod]) -> str:
    parts = ["## Annex B Structured report content\n"]
    for iod in iods:
        if iod.content:
            rows = (
                (
                    ">" * (len(element.path) - 2) + element.path[-1],
                    element.presence,
                    _source(element),
                    element.value,
                )
                for element in iod.content
            )
            parts.append(
                f"### B.{len(parts)} {iod.sop_class.name}: TID {iod.root_template} (DCMR)\n\n"
                "Relationship, value type and concept name of each content item below the root. A measurement group is "
                "TID 1411 where its segment has voxels, and TID 1501 where it has none or the group concerns the "
                "result as a whole.\n\n"
                f"{table(('Content item', 'Presence', 'Source', 'Value'), rows)}\n"
            )
    return "\n".join(parts)


def _mapping(iods: Sequence[Iod]) -> str:
    """PS3.2 N, mapping of attributes: what is taken over from the source under the same name."""
    objects: dict[tuple[str, str], list[str]] = {}
    for iod in iods:
        for element in (e for module in iod.modules for e in module.elements):
            if element.origins == (Origin.SOURCE,) and len(element.path) == 1:
                objects.setdefault((element.tag, element.path[0]), []).append(iod.kind)
    rows = ((name, tag, ", ".join(kinds)) for (tag, name), kinds in sorted(objects.items()))
    return f"""\
## Annex C Mapping of attributes

What follows the images analysed and nothing else, by the objects that have it.

{table(("Attribute", "Tag", "Objects"), rows)}
"""


def _codes(codes: Sequence[UsedCode]) -> str:
    columns = ("Code value", "Scheme", "Code meaning", "Used by")
    standard, private = (
        [
            (code.value, code.scheme, code.meaning, ", ".join(code.used_by))
            for code in codes
            if code.is_private == wanted
        ]
        for wanted in (False, True)
    )
    return f"""\
## Annex D Code set usage

### D.1 Codes of public schemes

What the objects may hold besides codes that they copy from their source: of the templates, of the pipelines'
manifests and of the pipelines' own code.

{table(columns, standard)}

### D.2 Private codes

Private schemes are named in Coding Scheme Identification Sequence (0008,0110) of the objects that use them.

{table(columns, private)}
"""


def _integration(statement: Statement) -> str:
    actors = table(
        ("Profile", "Actor", "All transactions that the profile requires"),
        ((actor.profile, actor.name, yes(actor.supported)) for actor in statement.actors),
    )
    details = table(
        ("Actor", "Transaction or content", "Reference", "Supported", "How"),
        (
            (actor.name, item.name, item.reference, yes(item.supported), item.remark)
            for actor in statement.actors
            for item in (*actor.transactions, *actor.content)
        ),
    )
    return f"""\
## Annex E IHE integration statement

| Vendor | Product | Version |
| --- | --- | --- |
| {statement.product} | {statement.product} | {statement.version} |

An actor is claimed only where the last column says Y.

{actors}

What there is of each actor's transactions, and of the content that IHE RAD TF-3 6.5.3 describes:

{details}

No option of these profiles is claimed. This statement is made of the software's own facts; no Connectathon has
confirmed it.
"""
