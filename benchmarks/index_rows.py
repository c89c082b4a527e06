"""Rows of an index that has been in use for years, in bulk: for `benchmarks/index.py`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from sqlalchemy import Table, make_url

from storage import tables
from storage.index import Index
from storage.model import AGE_S

#: The last instance came then.
END = datetime(2026, 3, 1, 12, tzinfo=UTC)
YEARS = 3
STUDIES, EVENTS = 20_000, 1_000_000
#: Completed workitems per study, values and log lines of each.
ANALYSED, VALUES = 0.75, 30
#: That may start now, and that wait for a window.
READY, POSTPONED = 300, 2000
PIPELINES = ("ct_skeleton", "ct_trunk_muscle", "qct_femur")
NIGHT = "20:00-06:00"
BATCH = 5000
ROOT = "1.2.826.0.1.3680043.8.498"

#: What a CT of today says of itself; about 60 attributes, as `node.header` keeps them.
HEADER: dict[str, list[Any]] = {
    "SpecificCharacterSet": ["ISO_IR 100"],
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"],
    "SOPClassUID": ["1.2.840.10008.5.1.4.1.1.2"],
    "StudyTime": ["101530.123000"],
    "SeriesTime": ["101612.456000"],
    "AcquisitionDateTime": ["20260301101630.789000"],
    "Modality": ["CT"],
    "Manufacturer": ["SIEMENS"],
    "InstitutionName": ["Example Hospital"],
    "StationName": ["CTAWP12345"],
    "StudyDescription": ["Abdomen^Routine (Adult)"],
    "SeriesDescription": ["Abdomen 1.5 B60f bone"],
    "ManufacturerModelName": ["SOMATOM Definition AS"],
    "PatientName": ["EXAMPLE^PATIENT"],
    "PatientBirthDate": ["19600101"],
    "PatientSex": ["F"],
    "PatientAge": ["066Y"],
    "BodyPartExamined": ["ABDOMEN"],
    "ScanOptions": ["SPI"],
    "SliceThickness": [1.5],
    "KVP": [120.0],
    "DataCollectionDiameter": [500.0],
    "DeviceSerialNumber": ["12345"],
    "SoftwareVersions": ["syngo CT VA48A"],
    "ProtocolName": ["Abdomen"],
    "ReconstructionDiameter": [380.0],
    "DistanceSourceToDetector": [1085.6],
    "DistanceSourceToPatient": [595.0],
    "GantryDetectorTilt": [0.0],
    "TableHeight": [151.0],
    "RotationDirection": ["CW"],
    "ExposureTime": [500],
    "XRayTubeCurrent": [210],
    "Exposure": [105],
    "FilterType": ["FLAT"],
    "GeneratorPower": [25],
    "FocalSpots": [1.2],
    "ConvolutionKernel": ["B60f"],
    "PatientPosition": ["HFS"],
    "SingleCollimationWidth": [0.6],
    "TotalCollimationWidth": [38.4],
    "TableSpeed": [46.0],
    "SpiralPitchFactor": [0.6],
    "CTDIvol": [7.1],
    "StudyID": ["1"],
    "SeriesNumber": [3],
    "AcquisitionNumber": [2],
    "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    "SamplesPerPixel": [1],
    "PhotometricInterpretation": ["MONOCHROME2"],
    "Rows": [512],
    "Columns": [512],
    "PixelSpacing": [0.7421875, 0.7421875],
    "BitsAllocated": [16],
    "BitsStored": [12],
    "HighBit": [11],
    "PixelRepresentation": [0],
    "WindowCenter": [450.0],
    "WindowWidth": [1500.0],
    "RescaleIntercept": [-1024.0],
    "RescaleSlope": [1.0],
    "RequestedProcedurePriority": ["ROUTINE"],
}


class Loader:
    """Rows into tables, as fast as each database takes them."""

    def __init__(self, url: str, index: Index) -> None:
        self._index = index
        self._url = make_url(url)
        self._waiting: dict[str, list[Sequence[Any]]] = {}
        self._tables: dict[str, tuple[Table, tuple[str, ...]]] = {}

    def add(self, table: Table, **values: Any) -> None:
        """One row; all rows of a table name the same columns."""
        rows = self._waiting.setdefault(table.name, [])
        self._tables[table.name] = table, tuple(values)
        rows.append(tuple(values.values()))
        if table is tables.instances and len(rows) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits, parents first."""
        for table in tables.metadata.sorted_tables:
            if rows := self._waiting.pop(table.name, None):
                self._write(table, self._tables[table.name][1], rows)

    def _write(self, table: Table, columns: Sequence[str], rows: list[Sequence[Any]]) -> None:
        names = ", ".join(f'"{column}"' for column in columns)
        if self._index.dialect == "postgresql":
            plain = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
            with psycopg.connect(plain) as raw:
                statement = f"COPY {table.name} ({names}) FROM STDIN".encode()
                with raw.cursor() as cursor, cursor.copy(statement) as copy:
                    for row in rows:
                        copy.write_row(row)
            return
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"  # noqa: S608 - ours
        with self._index.begin() as connection:
            connection.exec_driver_sql(statement, [tuple(map(_as_sqlite, row)) for row in rows])


def _as_sqlite(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.%f")
    return value


def fill(url: str, index: Index, *, scale: float, seed: int = 1) -> dict[str, int]:
    """Fill an upgraded index; how many rows of each kind."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    loader = Loader(url, index)
    counts = {
        "studies": max(20, int(STUDIES * scale)),
        "instances": 0,
        "events": 0,
        "measurements": 0,
    }
    per_study = max(5, int(EVENTS * scale) // counts["studies"])
    for n in range(counts["studies"]):
        study = f"{ROOT}.{n}"
        at = END - timedelta(days=365 * YEARS) * (1 - (n + 1) / counts["studies"])
        series = list(_add_study(loader, rng, study, n, at))
        counts["instances"] += sum(len(uids) for uids in series)
        newest = n >= counts["studies"] - max(8, int((READY + POSTPONED) * scale))
        if rng.random() < ANALYSED or newest:
            _add_workitem(loader, rng, study, n, at, series[0], newest=newest)
            counts["measurements"] += 0 if newest else VALUES
        _add_events(loader, study, n, at, per_study)
        counts["events"] += per_study
    loader.flush()
    return counts


def _add_study(
    loader: Loader, rng: random.Random, study: str, n: int, at: datetime
) -> Iterator[list[str]]:
    """A study of one to four series, 50 instances on average, some of hundreds; SOP Instance UIDs by series."""
    size = rng.choices(
        (rng.randint(8, 32), rng.randint(60, 120), rng.randint(200, 340)), (70, 25, 5)
    )[0]
    count = rng.randint(1, 4)
    header = {
        **HEADER,
        "StudyInstanceUID": [study],
        "PatientID": [f"P{n // 2}"],
        "AccessionNumber": [f"A{n}"],
        "StudyDate": [f"{at:%Y%m%d}"],
    }
    loader.add(
        tables.studies,
        study_instance_uid=study,
        patient_id=f"P{n // 2}",
        accession_number=f"A{n}",
        study_date=f"{at:%Y%m%d}",
        study_description="Abdomen^Routine (Adult)",
        revision=size,
        evaluated_revision=size,
        series_count=count,
        instance_count=size,
        first_received_at=at,
        last_received_at=at + timedelta(minutes=5),
    )
    for k in range(count):
        uid = f"{study}.{k}"
        own = {**header, "SeriesInstanceUID": [uid], "FrameOfReferenceUID": [f"{study}.9"]}
        text = json.dumps(own, separators=(",", ":"))
        uids = [f"{uid}.{i}" for i in range(k, size, count)]
        loader.add(
            tables.series,
            study_instance_uid=study,
            series_instance_uid=uid,
            modality="CT",
            calling_ae=f"CT{n % 7}",
            own=False,
            instance_count=len(uids),
            first_received_at=at,
            last_received_at=at + timedelta(minutes=5),
            header=text,
        )
        for i, sop in enumerate(uids):
            place = (
                f'{text[:-1]},"SOPInstanceUID":["{sop}"],"InstanceNumber":[{i}],'
                f'"ImagePositionPatient":[-190.0,-340.5,{-1.5 * i}],"SliceLocation":[{-1.5 * i}]}}'
            )
            _add_instance(loader, study, uid, sop, place, at, n)
        loader.add(
            tables.decisions,
            study_instance_uid=study,
            revision=size,
            position=k,
            rule="bones",
            rule_version=3,
            pipeline="ct_skeleton",
            series_instance_uid=uid,
            matched=k == 0,
            clauses=json.dumps(
                [{"clause": f"Modality = CT {c}", "seen": "CT", "holds": k == 0} for c in range(6)]
            ),
            reason="Every clause holds: ct_skeleton runs.",
        )
        yield uids


def _add_instance(  # noqa: PLR0913 - one row
    loader: Loader, study: str, series: str, sop: str, header: str, at: datetime, n: int
) -> None:
    loader.add(
        tables.instances,
        sop_instance_uid=sop,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        series_instance_uid=series,
        study_instance_uid=study,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        archive_key=f"{n % 256:02x}/{n:08x}/{hash(sop) & 0xFFFFFFFFFFFF:012x}.dcm",
        size=526_000,
        digest=f"{hash(sop) & 0xFFFFFFFFFFFFFFFF:064x}",
        calling_ae=f"CT{n % 7}",
        called_ae="OSTEONODE",
        received_at=at,
        own=False,
        header=header,
    )


def _add_workitem(  # noqa: PLR0913 - one noun
    loader: Loader,
    rng: random.Random,
    study: str,
    n: int,
    at: datetime,
    sops: Sequence[str],
    *,
    newest: bool,
) -> None:
    uid, pipeline = f"2.25.{10**30 + n}", PIPELINES[n % len(PIPELINES)]
    postponed = newest and n % ((READY + POSTPONED) // READY + 1) != 0
    opens = END + timedelta(days=3650)
    loader.add(
        tables.workitems,
        workitem_uid=uid,
        study_instance_uid=study,
        study_revision=1,
        rule="bones",
        pipeline=pipeline,
        pipeline_version="1.2.0",
        parameters='{"threshold":0.5}',
        destinations='["PACS"]',
        priority=50,
        state="SCHEDULED" if newest else "COMPLETED",
        scheduled_at=at,
        attempts=0 if newest else 1,
        not_before=opens if postponed else None,
        started_at=None if newest else at,
        ended_at=None if newest else at + timedelta(minutes=2),
        timings="{}" if newest else json.dumps({"load": 4.0, "infer": rng.uniform(20, 90)}),
        turn=(opens if postponed else at).timestamp() - 50 * AGE_S,
        window=NIGHT if postponed else None,
    )
    loader.add(
        tables.workitem_inputs,
        workitem_uid=uid,
        position=0,
        role="ct",
        series_instance_uid=f"{study}.0",
        sop_instance_uids=json.dumps(list(sops)),
    )
    if newest:
        return
    for k, kind in enumerate(("SEG", "SR")):
        _add_evidence(loader, study, f"{uid}.{k}", uid, kind, at)
    for k in range(VALUES):
        loader.add(
            tables.measurements,
            workitem_uid=uid,
            pipeline=pipeline,
            pipeline_version="1.2.0",
            study_instance_uid=study,
            series_instance_uid=f"{study}.0",
            segment_number=k // 2 + 1,
            segment_label=f"Structure {k // 2 + 1}",
            concept_value="118565006" if k % 2 else "112031",
            concept_scheme="SCT" if k % 2 else "DCM",
            concept_meaning="Volume" if k % 2 else "Attenuation Coefficient",
            value=rng.uniform(1, 500),
            unit="mL" if k % 2 else "[hnsf'U]",
            measured_at=at + timedelta(minutes=2),
        )


def _add_evidence(  # noqa: PLR0913 - one row
    loader: Loader, study: str, sop: str, workitem: str, kind: str, at: datetime
) -> None:
    proof = [{"label": f"Structure {k}", **_EXACT} for k in range(15)] if kind == "SEG" else []
    loader.add(
        tables.evidence,
        sop_instance_uid=sop,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.66.4",
        series_instance_uid=f"{workitem}.9",
        study_instance_uid=study,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        workitem_uid=workitem,
        kind=kind,
        archive_key="a/b/c.dcm",
        size=2_000_000,
        digest="d" * 64,
        created_at=at,
        profiles='["generic"]',
        proof=json.dumps(proof),
    )
    loader.add(
        tables.deliveries,
        sop_instance_uid=sop,
        destination="PACS",
        state="SENT",
        attempts=1,
        next_attempt_at=at,
        status=0,
        message="",
        updated_at=at,
    )


#: What a proof that found nothing says of a segment.
_EXACT = {
    "voxels": 1000,
    "voxels_off": 0,
    "voxels_differing": 0,
    "volume_ml": 12.5,
    "volume_off_ml": 0.0,
    "centroid_off_mm": 0.0,
}
_KINDS = ("instances-received", "study-evaluated", "workitem-completed", "delivery-sent")


def _add_events(loader: Loader, study: str, n: int, at: datetime, count: int) -> None:
    for k in range(count):
        kind = _KINDS[k] if k < len(_KINDS) else "instances-received"
        if n % 200 == 0 and k == 0:
            kind = "rule-edited"
        loader.add(
            tables.events,
            kind=kind,
            actor=f"CT{n % 7}" if kind == "instances-received" else "node",
            at=at + timedelta(seconds=k),
            study_instance_uid=study,
            outcome="success",
            detail=json.dumps({"instances": 12, "calling_ae": f"CT{n % 7}", "revision": k}),
        )
