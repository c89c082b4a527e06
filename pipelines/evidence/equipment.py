"""Who made it: the same identity in SEG, SR and Contributing Equipment (IHE AIR Table 6.5.3.1-1).

Manufacturer, Manufacturer's Model Name, Software Versions and Device UID are those of the *algorithm*, so a display
can tell by any of them which model a result comes from. The node's own version stands second in Software Versions
of the General Equipment module.
"""

from __future__ import annotations

from datetime import datetime

from highdicom import AlgorithmIdentificationSequence, ContributingEquipment
from highdicom.sr import (
    AlgorithmIdentification,
    DeviceObserverIdentifyingAttributes,
    ObserverContext,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from pipelines.evidence.request import Request


def algorithm_identification(request: Request) -> AlgorithmIdentificationSequence:
    """Segmentation Algorithm Identification Sequence (0062,0007), PS3.3 Table 10-19."""
    manifest = request.manifest
    return AlgorithmIdentificationSequence(
        name=manifest.name,
        family=_family(request),
        version=manifest.version,
        source=manifest.manufacturer,
        parameters=_parameters(request) or None,
    )


def algorithm_statement(request: Request, *, complete: bool = False) -> AlgorithmIdentification:
    """TID 4019; `complete` adds family, manufacturer and parameters to name and version."""
    manifest = request.manifest
    if not complete:
        return AlgorithmIdentification(name=manifest.name, version=manifest.version)
    return AlgorithmIdentification(
        name=manifest.name,
        version=manifest.version,
        parameters=[f"{name}={value}" for name, value in _parameters(request).items()] or None,
        family=_family(request),
        manufacturer=manifest.manufacturer,
    )


def observer_context(request: Request) -> ObserverContext:
    """TID 1002 and 1004: the algorithm is the observer."""
    manifest = request.manifest
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=request.device_uid,
            name=manifest.title,
            manufacturer_name=manifest.manufacturer,
            model_name=manifest.name,
            serial_number=request.installation.serial_number,
        ),
    )


def contributing_equipment(
    request: Request, source: Dataset, contributed_at: datetime
) -> list[Dataset]:
    """Contributing Equipment Sequence (0018,A001): the scanner, and the algorithm with its Device UID."""
    manifest, installation = request.manifest, request.installation
    algorithm = ContributingEquipment(
        manufacturer=manifest.manufacturer,
        # IHE AIR 6.5.3.1: (109102, DCM, "Processing Equipment").
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=manifest.name,
        software_versions=manifest.version,
        device_serial_number=installation.serial_number,
        institution_name=installation.institution or None,
        contribution_datetime=contributed_at.replace(tzinfo=None),
        contribution_description=manifest.title,
    )
    algorithm.DeviceUID = request.device_uid
    return [*_scanner(source), algorithm]


def _scanner(source: Dataset) -> list[Dataset]:
    """The acquisition equipment; nothing where the source names no manufacturer (Type 2)."""
    if not source.get("Manufacturer"):
        return []
    item = Dataset()
    for keyword in (
        "Manufacturer",
        "InstitutionName",
        "StationName",
        "ManufacturerModelName",
        "DeviceSerialNumber",
        "SoftwareVersions",
        "DeviceUID",
    ):
        if source.get(keyword):
            item.add(source[keyword])
    code = Dataset()
    acquisition = codes.DCM.AcquisitionEquipment
    code.CodeValue = acquisition.value
    code.CodingSchemeDesignator = acquisition.scheme_designator
    code.CodeMeaning = acquisition.meaning
    item.PurposeOfReferenceCodeSequence = [code]
    return [item]


def _family(request: Request) -> Code:
    # PS3.16 CID 7162 has no word for "not learned"; our classical pipelines threshold and clean up.
    learned = request.manifest.family == "artificial_intelligence"
    family: Code = (
        codes.cid7162.ArtificialIntelligence if learned else codes.cid7162.MorphologicalOperations
    )
    return family


def _parameters(request: Request) -> dict[str, str]:
    return {name: str(value) for name, value in sorted(request.parameters.items())}
