"""Values that an object takes over from the study, as far as they can be taken over: `tidy`.

A PACS puts our object beside the images by these, so they stay as they came, a character too many included. Control
characters, which belong in no such value (PS3.5 6.1.3), are left out; a value as long as nobody writes one, which
would make an element of another kind of it (PS3.5 6.2.2, note on lengths above 65534), is emptied.
"""

from __future__ import annotations

import re
from typing import Any, Final

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue

from pipelines.reading import is_uid

_LINES: Final = frozenset(("LT", "ST", "UT"))
#: VR -> the most characters of a value that is taken over.
_MOST: Final = {
    **dict.fromkeys(("AE", "AS", "CS", "LO", "PN", "SH", "UC"), 1024),
    **dict.fromkeys(_LINES, 10240),
}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
#: TAB, LF, FF and CR are text in the VRs that have lines (PS3.5 6.1.3).
_CONTROL_IN_LINES: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]+")


def tidy(ds: Dataset) -> None:
    """Make of taken-over texts what can be written and shown, in the object itself and in its equipment."""
    for item in (ds, *(ds.get("ContributingEquipmentSequence") or ())):
        for element in list(item):
            _tidy(item, element)


def _tidy(ds: Dataset, element: DataElement) -> None:
    if element.keyword == "DeviceUID" and not is_uid(element.value):
        del ds[element.tag]
    elif element.VR in _MOST and element.value:
        is_list = isinstance(element.value, MultiValue)
        values = list(element.value) if is_list else [element.value]
        tidied = [_tidied(value, element.VR) for value in values]
        if tidied != [str(value) for value in values]:
            # A new element: the old one may be the source's.
            ds.add_new(element.tag, element.VR, tidied if is_list else tidied[0])


def _tidied(value: Any, vr: str) -> str:
    text = str(value)
    text = (_CONTROL_IN_LINES if vr in _LINES else _CONTROL).sub("", text)
    return text if len(text) <= _MOST[vr] else ""
