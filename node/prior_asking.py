"""Which study of a patient was before, and which of its series: asked of an archive (PS3.4 C.4.1, Study Root)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pydicom import Dataset

from node import query
from node.config import Config
from node.fetching import Shelf
from node.tls import Dialer
from storage.index import priors
from storage.model import Destination, Series, Study

#: CT, MR, PET, NM and their enhanced kinds: what a C-GET asks for where the archive does not say what it has.
_IMAGES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{end}"
    for end in ("2", "2.1", "2.2", "4", "4.1", "4.4", "20", "128", "128.1", "130")
)
_OF_STUDY = ("IssuerOfPatientID", "StudyInstanceUID", "StudyTime")
_OF_SERIES = (
    "SeriesInstanceUID",
    "Modality",
    "SeriesDescription",
    "NumberOfSeriesRelatedInstances",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteArchive:
    """An archive, and the study that one before is wanted for."""

    config: Config
    source: Destination
    study: Study
    #: Of the study.
    series: Sequence[Series]
    within_days: int

    def look(self, modalities: Sequence[Sequence[str]]) -> tuple[str, list[str]]:
        """The last study before that has a series for one input at least, and those series; empty when there is none.

        Raises
        ------
        node.errors.DeliveryError
        """
        for found in self._studies_before():
            uid = str(found.StudyInstanceUID)
            keys = {"StudyInstanceUID": uid, **dict.fromkeys(_OF_SERIES, "")}
            series = self._find("SERIES", keys)
            if chosen := choose_series(series, modalities, self.series):
                return uid, chosen
        return "", []

    def bring(self, study: str, series: str, shelf: Shelf) -> None:
        """Fetch a series; what is held already comes again, and is no news.

        Raises
        ------
        node.errors.DeliveryError
        """
        ours, timeout_s = self.config.node.ae_title, self.config.delivery.timeout_s
        dialer = Dialer(self.config.tls)
        if self.source.retrieve == "move":
            query.move(
                self.source,
                study,
                series,
                to=ours,
                calling_ae=ours,
                timeout_s=timeout_s,
                dialer=dialer,
            )
            return
        uids = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        images = self._find("IMAGE", {**uids, "SOPInstanceUID": "", "SOPClassUID": ""})
        query.get(
            self.source,
            study,
            series,
            sop_classes=query.sop_classes_of(images) or _IMAGES,
            keep=shelf.keep,
            calling_ae=ours,
            timeout_s=timeout_s,
            dialer=dialer,
        )

    def _studies_before(self) -> list[Dataset]:
        """Of this patient, within the time, the last first."""
        today = priors.parse_date(self.study.study_date)
        if today is None or not self.study.patient_id:
            return []
        first = today - timedelta(days=min(self.within_days, today.toordinal() - 1))
        span = f"{first:%Y%m%d}", f"{today - timedelta(days=1):%Y%m%d}"
        found = self._find(
            "STUDY",
            {
                "PatientID": self.study.patient_id,
                "StudyDate": "-".join(span),
                **dict.fromkeys(_OF_STUDY, ""),
            },
        )
        # An archive may match wildcards, or ignore a key.
        fitting = [
            ds
            for ds in found
            if ds.get("StudyInstanceUID")
            and self._is_of_patient(ds)
            and span[0] <= str(ds.get("StudyDate") or "") <= span[1]
        ]
        return sorted(fitting, key=_when, reverse=True)

    def _is_of_patient(self, ds: Dataset) -> bool:
        ours = next((_text_of(one, "IssuerOfPatientID") for one in self.series), "")
        theirs = str(ds.get("IssuerOfPatientID") or "")
        is_other_issuer = bool(ours and theirs and ours != theirs)
        return str(ds.get("PatientID") or "") == self.study.patient_id and not is_other_issuer

    def _find(self, level: str, keys: Mapping[str, str]) -> list[Dataset]:
        return query.find(
            self.source,
            level,
            keys,
            calling_ae=self.config.node.ae_title,
            timeout_s=self.config.delivery.timeout_s,
            dialer=Dialer(self.config.tls),
        )


def choose_series(
    found: Sequence[Dataset], modalities: Sequence[Sequence[str]], current: Sequence[Series]
) -> list[str]:
    """For each input the series of its modality that is described as one of today's, of these that with most instances.

    An archive says no more of a series than that; whether it fits is the rule's and the pipeline's to say.
    """
    described = {_text_of(one, "SeriesDescription") for one in current} - {""}

    def rank(ds: Dataset) -> tuple[bool, int, str]:
        count = str(ds.get("NumberOfSeriesRelatedInstances") or "")
        is_same = str(ds.get("SeriesDescription") or "") in described
        return is_same, int(count) if count.isdecimal() else 0, str(ds.SeriesInstanceUID)

    chosen = []
    for wanted in modalities:
        able = [ds for ds in found if ds.get("Modality") in wanted and ds.get("SeriesInstanceUID")]
        if able:
            chosen.append(str(max(able, key=rank).SeriesInstanceUID))
    return list(dict.fromkeys(chosen))


def _when(ds: Dataset) -> tuple[str, str, str]:
    return str(ds.StudyDate), str(ds.get("StudyTime") or ""), str(ds.StudyInstanceUID)


def _text_of(series: Series, keyword: str) -> str:
    return str(series.header.get(keyword, ("",))[0] or "")
