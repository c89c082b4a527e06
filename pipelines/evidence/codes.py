"""Codes that PS3.16 names and `pydicom.sr.codedict` lacks."""

from __future__ import annotations

from typing import Final

from pydicom.sr.coding import Code

#: UCUM, used throughout TID 1411 for volumes.
MILLILITER: Final = Code("mL", "UCUM", "milliliter")
#: PS3.16 TID 1500 Row 12.
QUALITATIVE_EVALUATIONS: Final = Code("C0034375", "UMLS", "Qualitative Evaluations")
#: PS3.16 TID 1601 Row 1 names no concept; highdicom and dcmqi leave images of the library under this one.
SOURCE: Final = Code("260753009", "SCT", "Source")
#: PS3.16 TID 1602: unit of Rows and Columns, and of direction cosines.
PIXELS: Final = Code("{pixels}", "UCUM", "Pixels")
COSINE: Final = Code("{-1:1}", "UCUM", "{-1:1}")

#: Codes of our own that no standard has (PS3.16 8: designators of private schemes begin with 99).
PRIVATE_SCHEME: Final = "99OSTEONODE"
