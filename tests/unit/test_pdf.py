"""The PDF report: its pages, its words, its header."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import documents
import pytest
import volumes
from pydicom.sr.coding import Code
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from pipelines.evidence.pages import PRINT, Writer, finish_pages, wrapped, write_head, write_table
from pipelines.evidence.pdf import create_pdf, write_pdf
from pipelines.evidence.proof import encode
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.summary import WHOLE_RESULT, number, summarise, unit
from pipelines.evidence.views import CAUTION
from pipelines.manifest import CodeSpec
from pipelines.result import Measurement, QualitativeEvaluation

_INDEX = Code("X1", "99TEST", "Muscle index")
_AREA_BY_HEIGHT = Code("cm2/m2", "UCUM", "square centimeter per square meter")


def _table(request: EvidenceRequest) -> list[str]:
    summary = summarise(request)
    writer = Writer(style=PRINT)
    write_head(writer, summary)
    write_table(writer, summary)
    return documents.texts(finish_pages(writer, summary))


def test_the_same_request_makes_the_same_bytes(tmp_path: Path) -> None:
    source = documents.named_source(tmp_path)
    first, second = (create_pdf(volumes.make_request(source)) for _ in range(2))
    assert encode(first) == encode(second)


def test_another_process_makes_the_same_document(tmp_path: Path) -> None:
    """No clock, no random hash of names."""
    code = (
        "import hashlib, pathlib, sys, volumes; from pipelines.series import read_series; "
        "from pipelines.evidence.pdf import write_pdf; "
        "source = read_series(sorted(pathlib.Path(sys.argv[1]).iterdir())); "
        "print(hashlib.sha256(write_pdf(volumes.make_request(source))).hexdigest())"
    )
    volumes.write_series(tmp_path)
    root = Path(__file__).parents[2]
    made = {
        subprocess.run(
            [sys.executable, "-c", code, tmp_path],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": f"{root}:{root / 'tests'}"},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(made) == 1


def test_header_and_document(tmp_path: Path) -> None:
    source = documents.named_source(tmp_path)
    request = volumes.make_request(source)
    ds = documents.received(create_pdf(request))
    assert ds.SOPClassUID == EncapsulatedPDFStorage
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (ds.Modality, ds.BurnedInAnnotation) == ("DOC", "NO")
    assert ds.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert ds.DocumentTitle == "Bone in CT - 1.2.3"
    assert ds.ConceptNameCodeSequence[0].CodeValue == "126000"
    assert ds.SeriesDescription == "AI - Bone in CT, report - research, unverified"
    assert ds.PatientName == documents.PATIENT["PatientName"]
    assert ds.PatientBirthDate == documents.PATIENT["PatientBirthDate"]
    assert ds.StudyInstanceUID == source.datasets[0].StudyInstanceUID
    assert ds.ContributingEquipmentSequence[1].DeviceUID == ds.DeviceUID == request.device_uid
    assert [item.ReferencedSOPInstanceUID for item in ds.SourceInstanceSequence] == [
        one.SOPInstanceUID for one in source.datasets
    ]
    document = ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength]
    assert document == write_pdf(request)
    assert document.startswith(b"%PDF-")
    assert document.rstrip().endswith(b"%%EOF")
    assert b"CreationDate" not in document


def test_every_statement_stands_in_the_table(tmp_path: Path) -> None:
    source = documents.named_source(tmp_path)
    request = volumes.make_request(source)
    l3 = Code("36470004", "SCT", "L3 vertebra")
    result = dataclasses.replace(
        request.result,
        measurements=(
            *request.result.measurements,
            Measurement(name=_INDEX, value=48.2345, unit=_AREA_BY_HEIGHT, site=l3),
        ),
        evaluations=(
            QualitativeEvaluation(
                name=Code("X2", "99TEST", "Muscle quality"),
                value=Code("X3", "99TEST", "Below the range"),
                segment_number=2,
            ),
        ),
    )
    said = _table(dataclasses.replace(request, result=result))
    for text in (
        "Bone in CT", CAUTION, "\u2022 Bone 2 is cut by the field of view.",
        WHOLE_RESULT, "Muscle index (L3 vertebra)", "48.23", "cm\u00b2/m\u00b2",
        "Bone 1", "Bone 2", "Volume", "mL", "Attenuation Coefficient, mean", "400", "700", "HU",
        "Muscle quality", "Below the range",
    ):  # fmt: skip
        assert text in said
    assert said.index(WHOLE_RESULT) < said.index("Bone 1") < said.index("Bone 2")


def test_how_it_was_made_is_said(tmp_path: Path) -> None:
    request = volumes.make_request(documents.named_source(tmp_path))
    facts = dict(summarise(request).facts)
    assert facts == {
        "Pipeline": "ct_bone 1.2.3, by OsteoNode",
        "Software": "OsteoNode 0.1.0",
        "Model": "weights SHA-256 abababababab...",
        "Device UID": request.device_uid,
        "Analysed": facts["Analysed"],
        "Images": "CT, 11 slices of 36 x 43, voxels of 2.5 x 0.8 x 0.7 mm",
        "Parameters": "threshold = 300.0",
        "Patient": "see the DICOM header of this object",
    }
    assert facts["Analysed"].startswith("2026-03-0")


def test_what_was_not_found_is_said(tmp_path: Path) -> None:
    request = documents.nothing_found(documents.named_source(tmp_path))
    said = " ".join(_table(request))
    assert "Looked for and not found (0 mL): Bone 1, Bone 2." in said
    assert "No voxel was segmented" in said
    assert documents.received(create_pdf(request)).EncapsulatedDocumentLength > 1000


def test_a_hundred_segments_take_several_pages(tmp_path: Path) -> None:
    source = documents.named_source(tmp_path)
    labels = source.volume.array.copy()
    labels[:] = 0
    labels.reshape(-1)[: 104 * 7] = [1 + index // 7 for index in range(104 * 7)]
    long = "with a label so long that it takes more than the one line"
    specs = [volumes.make_spec(n, label=f"Bone {n}", rgb=(200, n, 0)) for n in range(1, 104)]
    specs.append(volumes.make_spec(104, label=f"B {long}"))
    label_map = source.volume.with_array(labels.astype("uint8"))
    request = volumes.make_request(
        source, specs=specs, result=volumes.make_result(source, specs, label_map)
    )
    summary = summarise(request)
    writer = Writer(style=PRINT)
    write_head(writer, summary)
    write_table(writer, summary)
    figures = finish_pages(writer, summary)
    assert 4 <= len(figures) <= 7
    for page, figure in enumerate(figures, start=1):
        said = documents.texts([figure])
        assert f"page {page} of {len(figures)}" in said
        assert "Measurement" in said
        assert f"Bone in CT. {CAUTION}." in said
        # Nothing lies beyond the footer.
        assert all(text.get_position()[1] > 0.02 for text in figure.texts)
    said = documents.texts(figures)
    assert sum(text.startswith("Bone ") and text[5:].isdigit() for text in said) == 103
    assert long.rsplit(maxsplit=1)[-1] in " ".join(said)


def test_nobody_is_named(tmp_path: Path) -> None:
    request = volumes.make_request(documents.named_source(tmp_path))
    said = " ".join([*_table(request), *(f"{a} {b}" for a, b in summarise(request).facts)]).lower()
    document = write_pdf(request)
    for word in ("secretname", "given", "4711", "1901", "0203"):
        assert word not in said.replace(request.device_uid, "")
        assert word.encode() not in document.lower() or word.isdigit()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (7.0, "7"), (12345.6, "12346"), (123.456, "123.5"), (-12.3, "-12.30"),
        (0.0123456, "0.0123"), (1e-9, "0.00000000100"), (3e6, "3000000"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_people_do(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("mL", "mL"), ("[hnsf'U]", "HU"), ("1", ""), ("cm2/m2", "cm\u00b2/m\u00b2"), ("mg/cm3", "mg/cm\u00b3"),
        ("{counts}", "counts"), ("g/ml{SUVbw}", "g/ml (SUVbw)"), ("%", "%"),
    ],
)  # fmt: skip
def test_units_are_written_as_people_do(value: str, text: str) -> None:
    assert unit(CodeSpec(value=value, scheme="UCUM", meaning="any").to_code()) == text


def test_long_words_are_broken_and_nothing_is_lost() -> None:
    text = "short " + "x" * 300 + " end"
    lines = wrapped(text, 100.0, 9.0)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert len(lines) > 5
    assert wrapped("", 100.0, 9.0) == [""]
