"""What a measurement report must be to be valid and to be read (PS3.3 A.35.13, PS3.16 TID 1500; displays)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from pipelines.evidence.checks import Check, Faults, missing, uncoded, unlike

#: Concept names, all of DCM.
_REPORT, _MEASUREMENTS, _GROUP = "126000", "126010", "125007"
_TRACKING_ID, _TRACKING_UID = "112039", "112040"
_DEVICE_UID, _PROCEDURE, _SEGMENT = "121012", "121058", "121191"


def _items(ds: Dataset, name: str | None = None) -> Iterator[Dataset]:
    """Content items directly below one, all or those of a concept name."""
    for item in ds.get("ContentSequence") or ():
        if name is None or _name(item) == name:
            yield item


def _name(item: Dataset) -> str | None:
    names = item.get("ConceptNameCodeSequence") or ()
    return names[0].get("CodeValue") if names else None


def _groups(ds: Dataset) -> Iterator[tuple[str, Dataset]]:
    for container in _items(ds, _MEASUREMENTS):
        for number, group in enumerate(_items(container, _GROUP), start=1):
            yield f"Measurement Group {number}: ", group


def _document(ds: Dataset) -> Faults:
    yield from unlike(
        ds,
        SOPClassUID=Comprehensive3DSRStorage,
        Modality="SR",
        ValueType="CONTAINER",
        # IHE AIR: what the algorithm says is whole, and nobody has vouched for it.
        CompletionFlag="COMPLETE",
        VerificationFlag="UNVERIFIED",
    )
    if "PerformedProcedureCodeSequence" not in ds:
        yield "PerformedProcedureCodeSequence is missing"


def _template(ds: Dataset) -> Faults:
    if not list(_items(ds, _MEASUREMENTS)):
        # OHIF shows nothing of an Imaging Measurement Report without measurements.
        if _name(ds) == _REPORT or ds.get("ContentTemplateSequence"):
            yield "an Imaging Measurement Report (126000, DCM) has no Imaging Measurements (126010, DCM)"
        return
    template = (ds.get("ContentTemplateSequence") or [Dataset()])[0]
    yield from unlike(template, MappingResource="DCMR", TemplateIdentifier="1500")
    if _name(ds) != _REPORT:
        yield "ConceptNameCodeSequence of the root is not Imaging Measurement Report (126000, DCM)"


def _context(ds: Dataset) -> Faults:
    observers = [str(item.get("UID")) for item in _items(ds, _DEVICE_UID)]
    contributing = {
        str(item.get("DeviceUID")) for item in ds.get("ContributingEquipmentSequence") or ()
    }
    if not observers or observers[0] not in contributing:
        yield "Device Observer UID (121012, DCM) is not the DeviceUID of a contributing equipment"
    procedures = list(_items(ds, _PROCEDURE))
    if not procedures:
        yield "Procedure Reported (121058, DCM) is missing"
    for item in procedures:
        yield from uncoded(item, "ConceptCodeSequence", "Procedure Reported: ")


def _tracking(ds: Dataset) -> Faults:
    for where, group in _groups(ds):
        for name, keyword in ((_TRACKING_ID, "TextValue"), (_TRACKING_UID, "UID")):
            items = list(_items(group, name))
            if len(items) != 1:
                yield f"{where}{len(items)} items of ({name}, DCM), not 1"
            for item in items:
                yield from missing(item, keyword, within=where)


def _segments(ds: Dataset) -> Faults:
    listed = {
        instance.get("ReferencedSOPInstanceUID")
        for study in ds.get("CurrentRequestedProcedureEvidenceSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for instance in series.get("ReferencedSOPSequence") or ()
    }
    if not listed:
        yield "CurrentRequestedProcedureEvidenceSequence is missing"
    for where, group in _groups(ds):
        for item in _items(group, _SEGMENT):
            reference = (item.get("ReferencedSOPSequence") or [Dataset()])[0]
            number = reference.get("ReferencedSegmentNumber")
            if not isinstance(number, int):
                yield f"{where}ReferencedSegmentNumber is {number!r}, not one segment"
            if reference.get("ReferencedSOPInstanceUID") not in listed:
                yield f"{where}ReferencedSOPSequence names an instance that is not in the evidence"


def _measurements(ds: Dataset) -> Faults:
    for where, group in _groups(ds):
        for item in _items(group):
            yield from uncoded(item, "ConceptNameCodeSequence", where)
            if item.get("ValueType") != "NUM":
                continue
            values = item.get("MeasuredValueSequence") or ()
            if not values:
                yield f"{where}MeasuredValueSequence is missing"
            for value in values:
                yield from missing(value, "NumericValue", within=where)
                yield from uncoded(value, "MeasurementUnitsCodeSequence", where)
            if not item.get("ContentSequence"):
                yield f"{where}a NUM has no ContentSequence, which a common web viewer needs"


def _places(ds: Dataset) -> Faults:
    """OHIF merges groups of one Tracking UID; with one that has no coordinates it shows none of the others."""
    placed: dict[str, bool] = {}
    for _, group in _groups(ds):
        here = any(item.get("ValueType") == "SCOORD" for item in _items(group))
        for item in _items(group, _TRACKING_UID):
            uid = str(item.get("UID"))
            placed[uid] = placed.get(uid, False) or here
    if any(placed.values()):
        for uid in (uid for uid, here in placed.items() if not here):
            yield f"the groups of Tracking UID {uid} have no SCOORD, as others have"


#: Of a measurement report, besides what every object must be.
REPORT: Final = (
    Check(name="document", clause="PS3.3 A.35.13, C.17.2; IHE AIR 6.5.3", faults=_document),
    Check(name="template", clause="PS3.16 TID 1500", faults=_template),
    Check(name="context", clause="PS3.16 TID 1001, TID 1204; IHE AIR 6.5.3.1", faults=_context),
    Check(name="tracking", clause="PS3.16 TID 1501, TID 1411; IHE AIR 6.5.3", faults=_tracking),
    Check(name="segments", clause="PS3.16 TID 1411, PS3.3 C.17.2.3", faults=_segments),
    Check(name="places", clause="PS3.16 TID 1410; displays", faults=_places),
    Check(name="measurements", clause="PS3.16 TID 300; displays", faults=_measurements),
)
