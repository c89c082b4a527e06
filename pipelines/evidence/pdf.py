"""The result as a report that any PACS shows: an Encapsulated PDF (PS3.3 A.45.1).

Who the patient is stands in the DICOM header, where the PACS can correct it, and not on the page.
"""

from __future__ import annotations

from io import BytesIO

import matplotlib as mpl
from highdicom import SOPClass
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage

from pipelines.evidence.header import finish, new_instance
from pipelines.evidence.overlay import overlay_figure
from pipelines.evidence.pages import (
    PRINT,
    Writer,
    finish_pages,
    rgb_pixels,
    write_facts,
    write_head,
    write_table,
)
from pipelines.evidence.references import code_item, source_references
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.summary import summarise

KIND = "PDF"
#: Inches; drawn at `_PICTURE_DPI` and printed at the width of the text.
_PICTURE, _PICTURE_DPI = (9.5, 6.4), 150


def create_pdf(request: EvidenceRequest) -> Dataset:
    """Make the report of a result; the same request makes the same bytes.

    Returns
    -------
    Dataset
        With file meta information, Explicit VR Little Endian.
    """
    ds = new_instance(request, KIND, sop_class_uid=EncapsulatedPDFStorage, modality="DOC")
    document = write_pdf(request)
    # PS3.3 C.8.6.1 SC Equipment: from a workstation.
    ds.ConversionType = "WSD"
    _add_document(ds, request, document)
    finish(ds, request)
    return ds


def write_pdf(request: EvidenceRequest) -> bytes:
    """The document itself (ISO 32000), A4, fonts embedded: head, picture, table, how it was made."""
    summary = summarise(request)
    writer = Writer(style=PRINT)
    write_head(writer, summary)
    _picture(writer, _views(request))
    write_table(writer, summary)
    write_facts(writer, summary.facts)
    buffer = BytesIO()
    # 42: TrueType fonts, whose text can be searched and copied. No dates: the same request makes the same bytes.
    known = {
        "Title": summary.title,
        "Author": request.manifest.manufacturer,
        "Creator": "OsteoNode",
        "Producer": None,
        "CreationDate": None,
    }
    with mpl.rc_context({"pdf.fonttype": 42}), PdfPages(buffer, metadata=known) as document:
        for figure in finish_pages(writer, summary):
            document.savefig(figure, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def _views(request: EvidenceRequest) -> Figure:
    """The overlay without its legend: the table has the colours and the numbers."""
    return overlay_figure(request.source, request.result, size=_PICTURE, legend=False)


def _picture(writer: Writer, drawing: Figure) -> None:
    """The overlay, as wide as the text."""
    drawing.set_dpi(_PICTURE_DPI)
    pixels = rgb_pixels(drawing)
    style, width = writer.style, writer.text_width
    height = width * pixels.shape[0] / pixels.shape[1]
    if writer.room() < height:
        writer.new_page()
    place = (
        style.margin / style.width,
        1 - (writer.y + height) / style.height,
        width / style.width,
        height / style.height,
    )
    axes = writer.figures[-1].add_axes(place)
    axes.imshow(pixels, aspect="auto", interpolation="none")
    axes.set_axis_off()
    writer.y += height + 1.5 * style.size


def _add_document(ds: SOPClass, request: EvidenceRequest, document: bytes) -> None:
    """PS3.3 C.24.2 Encapsulated Document."""
    title = f"{request.manifest.title} - {request.manifest.version}"
    # Type 2: when what it shows was acquired is many moments.
    ds.AcquisitionDateTime = None
    # It names nobody.
    ds.BurnedInAnnotation = "NO"
    ds.SourceInstanceSequence = source_references(request)
    ds.DocumentTitle = title
    # PS3.16 CID 7020.
    ds.ConceptNameCodeSequence = [code_item(codes.DCM.ImagingMeasurementReport)]
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.EncapsulatedDocumentLength = len(document)
    # PS3.5 7.1.1: values are of even length.
    ds.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
