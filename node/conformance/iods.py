"""The objects that the node makes, attribute by attribute, observed on the examples (PS3.2 N, Annexes A.A and A.B)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from highdicom._standard_utils import (
    get_iod_module_map,
    get_module_attribute_map,
    get_sop_class_iod_map,
)
from pydicom import Dataset
from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.tag import Tag

from node.conformance.examples import Example, Origin
from node.conformance.network import Named, named

Path = tuple[str, ...]

#: In place of a concept that each pipeline chooses.
OF_PIPELINE = "(of the pipeline)"
#: Finding category and Finding of a measurement group.
_FINDINGS = ("276214006", "121071")

#: The tree of an SR is said as templates, not as attributes.
_CONTENT = "ContentSequence"
#: How PS3.3 writes these in names of modules.
_WORDS = {"sop": "SOP", "sr": "SR", "of": "of"}
#: Longest value that is shown.
_SHOWN = 64


class Presence(StrEnum):
    """PS3.2 N: whether an attribute of the object, or of its item, is there and has a value."""

    ALWAYS = "ALWAYS"
    #: Value Not Always Present: sent empty.
    VNAP = "VNAP"
    #: Attribute Not Always Present.
    ANAP = "ANAP"
    EMPTY = "EMPTY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """An attribute, or a content item, below those of its path."""

    path: Path
    presence: Presence
    #: What its value follows; empty where it is always the same.
    origins: tuple[Origin, ...]
    #: The value, where it is always the same and short.
    value: str = ""
    tag: str = ""
    vr: str = ""
    #: Whether a sequence is the source's as it is.
    is_copy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """The attributes of one module of PS3.3."""

    name: str
    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Iod:
    """One kind of object the node makes."""

    kind: str
    sop_class: Named
    transfer_syntaxes: tuple[Named, ...]
    modules: tuple[Module, ...]
    #: Content items of an SR, by their place in the tree; empty for others.
    content: tuple[Element, ...]
    #: Template of the root, e.g. `1500`; empty for what is no SR.
    root_template: str
    has_private_attributes: bool


@dataclass(slots=True)
class _Seen:
    """What one object has."""

    #: Path -> items (or parents) that could have it, and that have it.
    items: Counter[Path] = field(default_factory=Counter)
    holders: Counter[Path] = field(default_factory=Counter)
    values: dict[Path, list[str]] = field(default_factory=dict)
    copies: set[Path] = field(default_factory=set)
    private: bool = False


def read_iods(examples: Sequence[Example]) -> tuple[Iod, ...]:
    """Each kind of object in the examples: a SEG of label maps is another than a binary one."""
    kinds = dict.fromkeys(
        (item.kind, str(item.ds.SOPClassUID)) for example in examples for item in example.objects
    )
    return tuple(_iod(kind, sop_class, examples) for kind, sop_class in kinds)


def _iod(kind: str, sop_class: str, examples: Sequence[Example]) -> Iod:
    made = [
        (example, item.ds)
        for example in examples
        for item in example.objects
        if (item.kind, item.ds.SOPClassUID) == (kind, sop_class)
    ]
    seen = [(example, _see(ds, example.source)) for example, ds in made]
    first = made[0][1]
    trees = [(example, _see_tree(ds)) for example, ds in made if _CONTENT in ds]
    templates = first.get("ContentTemplateSequence")
    return Iod(
        kind=kind,
        sop_class=named(first.SOPClassUID),
        transfer_syntaxes=tuple(
            named(uid) for uid in dict.fromkeys(ds.file_meta.TransferSyntaxUID for _, ds in made)
        ),
        modules=tuple(_by_module(first.SOPClassUID, _elements(seen))),
        content=tuple(_elements(trees)),
        root_template=str(templates[0].TemplateIdentifier) if templates else "",
        has_private_attributes=any(one.private for _, one in seen),
    )


# -- looking ------------------------------------------------------------------------------------


def _see(ds: Dataset, source: Dataset) -> _Seen:
    seen = _Seen()
    _see_attributes(seen, ds, (), source)
    return seen


def _see_attributes(seen: _Seen, ds: Dataset, path: Path, source: Dataset | None) -> None:
    seen.items[path] += 1
    for element in ds:
        if element.tag.is_private:
            seen.private = True
            continue
        here = (*path, element.keyword)
        seen.holders[here] += 1
        values = seen.values.setdefault(here, [])
        if element.VR != "SQ":
            values.append("" if element.is_empty else str(element.value))
            continue
        count = len(element.value)
        values.append(f"{count} item{'s' if count > 1 else ''}" if count else "")
        if source is not None and source.get(element.keyword) == element.value:
            seen.copies.add(here)
            values[-1] = str(element.value)
        elif element.keyword != _CONTENT:
            for item in element.value:
                _see_attributes(seen, item, here, None)


def _see_tree(ds: Dataset) -> _Seen:
    seen = _Seen()
    _see_items(seen, ds, (_node(ds),))
    return seen


def _see_items(seen: _Seen, ds: Dataset, path: Path) -> None:
    seen.items[path] += 1
    children = ds.get(_CONTENT) or ()
    for name in dict.fromkeys(_node(item) for item in children):
        seen.holders[*path, name] += 1
    for item in children:
        here = (*path, _node(item))
        seen.values.setdefault(here, []).append(_content_value(item))
        _see_items(seen, item, here)


def _node(item: Dataset) -> str:
    """A content item as `CONTAINS NUM (118565006, SCT, "Volume")`."""
    relationship, kind = item.get("RelationshipType", ""), item.ValueType
    # What a measurement or an evaluation is called, the pipeline says: one row stands for all.
    names = item.get("ConceptNameCodeSequence")
    own = (kind == "NUM" and relationship == "CONTAINS") or _is_evaluation(item)
    concept = OF_PIPELINE if own else _code(names[0]) if names else ""
    return " ".join(part for part in (relationship, kind, concept) if part)


def _is_evaluation(item: Dataset) -> bool:
    """A qualitative evaluation of a group: CONTAINS CODE that is not the group's own finding (TID 1501, TID 1411)."""
    return (
        item.ValueType == "CODE"
        and item.get("RelationshipType") == "CONTAINS"
        and item.ConceptNameCodeSequence[0].CodeValue not in _FINDINGS
    )


def _code(item: Dataset) -> str:
    return f'({item.CodeValue}, {item.CodingSchemeDesignator}, "{item.CodeMeaning}")'


def _content_value(item: Dataset) -> str:  # noqa: PLR0911 - one for each value type
    match item.ValueType:
        case "CODE":
            return _code(item.ConceptCodeSequence[0])
        case "NUM":
            measured = item.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0]
            return f"{measured.NumericValue} {unit.CodeValue}"
        case "TEXT":
            return str(item.TextValue)
        case "UIDREF":
            return str(item.UID)
        case "IMAGE" | "COMPOSITE":
            reference = item.ReferencedSOPSequence[0]
            return f"{reference.ReferencedSOPClassUID} {reference.ReferencedSOPInstanceUID}"
        case "CONTAINER":
            return str(item.ContinuityOfContent)
        case "SCOORD" | "SCOORD3D":
            return str(item.GraphicType)
        case kind:
            return str(kind)


# -- concluding ---------------------------------------------------------------------------------


def _elements(seen: Sequence[tuple[Example, _Seen]]) -> Iterator[Element]:
    """One element for each path that any of the objects has, in their order."""
    for path in dict.fromkeys(path for _, one in seen for path in one.values):
        values = [value for _, one in seen for value in one.values.get(path, ())]
        origins = _origins(path, seen)
        constant = len(set(values)) == 1 and not origins
        yield Element(
            path=path,
            presence=_presence(path, [one for _, one in seen], values),
            origins=origins,
            value=values[0] if constant and len(values[0]) <= _SHOWN else "",
            is_copy=any(path in one.copies for _, one in seen),
        )


def _origins(path: Path, seen: Sequence[tuple[Example, _Seen]]) -> tuple[Origin, ...]:
    """What changed the values, in rich objects or in poor ones."""
    # As sets: more items of the same value are no other value.
    values = {
        (example.is_poor, example.varied): set(one.values.get(path, ())) for example, one in seen
    }
    return tuple(
        origin
        for origin in Origin
        if any(
            (poor, origin) in values and values[poor, origin] != values[poor, None]
            for poor in (False, True)
        )
    )


def _presence(path: Path, seen: Iterable[_Seen], values: Sequence[str]) -> Presence:
    if any(one.holders[path] < one.items[path[:-1]] for one in seen):
        return Presence.ANAP
    if all(values):
        return Presence.ALWAYS
    return Presence.VNAP if any(values) else Presence.EMPTY


def _by_module(sop_class_uid: str, elements: Iterable[Element]) -> Iterator[Module]:
    """By the first module of the IOD that has the attribute; what none has stands last."""
    iod = get_sop_class_iod_map()[sop_class_uid]
    attributes = get_module_attribute_map()
    keys = [str(module["key"]) for module in get_iod_module_map()[iod]]
    home: dict[str, str] = {}
    for key in keys:
        for attribute in attributes.get(key, ()):
            if not attribute["path"]:
                home.setdefault(str(attribute["keyword"]), key)
    placed: Mapping[str, list[Element]] = {key: [] for key in [*keys, ""]}
    for element in elements:
        placed[home.get(element.path[0], "")].append(element)
    for key, found in placed.items():
        if found:
            # An item's attributes follow their sequence.
            found.sort(key=lambda element: [tag_for_keyword(one) or 0 for one in element.path])
            yield Module(
                name=_title(key) if key else "In no module of the IOD",
                elements=tuple(_described(element) for element in found),
            )


def _title(key: str) -> str:
    """`sr-document-series` -> `SR Document Series`."""
    words = (_WORDS.get(word, word.capitalize()) for word in key.split("-"))
    return " ".join(words)


def _described(element: Element) -> Element:
    keyword = element.path[-1]
    return replace(
        element,
        path=tuple(dictionary_description(one) for one in element.path),
        tag=str(Tag(keyword)),
        vr=dictionary_VR(keyword),
    )
