"""What the node holds and does, as values.

Every value that crosses a module is one of these frozen dataclasses; nothing here does I/O, and nothing
here needs more than the standard library. Times are UTC and aware. Words are DICOM's and IHE's: a *workitem* is
one pipeline on one set of inputs (PS3.4 Annex CC), *evidence* is what it makes (IHE Evidence Creator), a
*delivery* is one evidence instance owed to one destination.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeAlias

HeaderValue: TypeAlias = str | int | float | None
#: DICOM keyword -> values, as JSON can hold them; one entry per value of the attribute (VM).
Header: TypeAlias = Mapping[str, tuple[HeaderValue, ...]]
#: Parameters of a pipeline, by name.
Parameters: TypeAlias = Mapping[str, str | int | float | bool]

#: Days that an earlier study may lie back to be compared with, where a rule does not say: three years.
PRIOR_DAYS = 1095

#: Seconds that a study waits for a missing input where its rule does not say.
WAIT_S = 1800
#: Seconds of waiting that count as one point of priority: nothing waits for ever.
AGE_S = 600
#: What a rule does with a series that lacks slices.
HOLD, RUN = "hold", "run"


def utcnow() -> datetime:
    """The only clock: aware, UTC."""
    return datetime.now(UTC)


# -- what is held -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One SOP Instance in the archive, with where it came from."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    #: Name of the file in the archive.
    archive_key: str
    #: Bytes of the file, its preamble and file meta information included.
    size: int
    #: BLAKE3 of the encoded data set, without file meta information: the same for every sender.
    digest: str
    calling_ae: str
    called_ae: str
    received_at: datetime
    #: Attributes of the instance, pixel data excluded.
    header: Header
    #: True for an object this node made, or that was made of one: it never starts work.
    own: bool = False
    #: True when the content that came first under its UID was put aside for this one.
    replaced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictingInstance:
    """Another content that came under a SOP Instance UID already held: kept beside, and of no effect."""

    sop_instance_uid: str
    #: Of the instance that is held.
    study_instance_uid: str
    digest: str
    transfer_syntax_uid: str
    archive_key: str
    size: int
    calling_ae: str
    received_at: datetime


class FileState(StrEnum):
    """What is wrong with a file of the archive, or was."""

    #: Its row is there, the file is not.
    MISSING = "MISSING"
    #: Its bytes are not those that were received or made.
    DAMAGED = "DAMAGED"
    #: Removed by the retention policy; its row stays as history.
    EXPIRED = "EXPIRED"
    #: It was one of these, and the same content was sent again: it is whole, and its age counts from then.
    RETURNED = "RETURNED"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMark:
    """A file of the archive that is not as its row says, or was not."""

    archive_key: str
    sop_instance_uid: str
    study_instance_uid: str
    state: FileState
    at: datetime
    #: A sentence.
    reason: str


class FileOrigin(StrEnum):
    """Which rows name a file of the archive."""

    INSTANCE = "instance"
    #: Another content under the UID of an instance.
    CONFLICT = "conflict"
    EVIDENCE = "evidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFile:
    """What a row says of its file."""

    origin: FileOrigin
    sop_instance_uid: str
    study_instance_uid: str
    archive_key: str
    size: int
    digest: str
    #: What its mark says; None when nothing is known against it.
    state: FileState | None = None


class AddOutcome(StrEnum):
    """What `instances.add` found."""

    ADDED = "ADDED"
    #: Same SOP Instance UID, same bytes: acknowledged, no news.
    DUPLICATE = "DUPLICATE"
    #: Same SOP Instance UID, other bytes: kept beside the first, audited, no news.
    CONFLICT = "CONFLICT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A series as received so far."""

    series_instance_uid: str
    study_instance_uid: str
    modality: str
    instance_count: int
    first_received_at: datetime
    last_received_at: datetime
    #: Header of the first instance received: what rules read.
    header: Header
    #: Derived facts rules may name besides keywords: `calling_ae`, `instances`, `frames`, `slice_gap_mm`, ...
    facts: Mapping[str, HeaderValue] = field(default_factory=dict)
    own: bool = False


class Confidence(StrEnum):
    """How sure a verdict is."""

    #: Counted, seen in space, or said by a person.
    CERTAIN = "certain"
    #: The sender ended its association, and no slice is missing between others.
    LIKELY = "likely"
    #: Nothing came for a while: all there is to go by.
    PRESUMED = "presumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictReason:
    """One thing that speaks for a study being whole, or against it."""

    #: One of `node.completeness.ReasonCode`.
    code: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a study is whole, how sure that is, and why (`node.completeness`)."""

    whole: bool
    confidence: Confidence
    #: Whether it may be evaluated: it is plainly whole, or there is no more to wait for.
    ready: bool
    reasons: tuple[VerdictReason, ...]
    #: When it is looked at again if nothing comes; None when it is ready.
    look_again_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the sender's archive was asked of a study (C-FIND), and what it answered last."""

    #: The destination.
    of: str
    #: When it answered; None when it never did.
    at: datetime | None = None
    #: Number of Study Related Series (0020,1206) and Instances (0020,1208); None where the answer has none.
    series: int | None = None
    instances: int | None = None
    #: Series Instance UID -> Number of Series Related Instances (0020,1209), where it was given.
    by_series: Mapping[str, int] = field(default_factory=dict)
    #: Questions without an answer since the last one, why, and when it is asked again.
    attempts: int = 0
    failure: str = ""
    again_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A study that a person holds: it is not evaluated until it is released."""

    at: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study and its two counters: there is news while `revision > evaluated_revision`."""

    study_instance_uid: str
    patient_id: str
    accession_number: str
    study_date: str
    study_description: str
    revision: int
    evaluated_revision: int
    series_count: int
    instance_count: int
    first_received_at: datetime
    last_received_at: datetime
    #: A wait for a missing input ends then: the study is evaluated again, with news or without.
    waits_until: datetime | None = None
    #: When an association that brought some of it was released last, when one was aborted, and how many ended.
    released_at: datetime | None = None
    aborted_at: datetime | None = None
    associations: int = 0
    #: The revision that was looked at last, whether it was found whole, and when to look again if nothing comes.
    looked_revision: int = 0
    verdict: Verdict | None = None
    look_at: datetime | None = None
    #: Longest time between two of its instances, s, at that revision; pauses left out.
    pace_s: float = 0.0
    asked: Asked | None = None
    held: Hold | None = None
    #: When a person asked for it to be evaluated as it is.
    forced_at: datetime | None = None


# -- what shall run -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Clauses that all must hold -> a pipeline, a priority, destinations."""

    name: str
    pipeline: str
    #: Clauses as written, e.g. `Modality = CT`, which hold for every input; parsed by `node.routing`.
    where: tuple[str, ...]
    destinations: tuple[str, ...]
    priority: int = 50
    enabled: bool = True
    #: Overrides of the manifest's parameters.
    parameters: Parameters = field(default_factory=dict)
    #: Roles that are wanted, each with the clauses its series must meet besides; none: all of the pipeline's.
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Seconds that a study waits for a wanted role that is missing.
    wait_s: int = WAIT_S
    #: Roles that a run may go without when the wait is over.
    without: tuple[str, ...] = ()
    #: Whether destinations get a report that says why when the run is refused or fails for good.
    report_refusals: bool = False
    #: When its workitems may start, e.g. `mon-fri 20:00-06:00` (`node.windows`); empty: at any time.
    window: str = ""
    #: What becomes of a series that lacks slices when the wait is over: `hold`, or `run` on what has no gap.
    incomplete: str = HOLD
    #: Which of several series that fit is taken, the first wish first: clauses, `most slices`, `least SliceThickness`.
    prefer: tuple[str, ...] = ()
    #: Whether every series that fits the first input begins a run, not only the one preferred.
    each: bool = False
    #: `compare`: results say what has changed since the patient's study before; empty: they do not.
    prior: str = ""
    #: Days that the study before may lie back.
    prior_days: int = PRIOR_DAYS
    #: Destination that is asked for the study before where no result of it is held; empty: nobody is asked.
    prior_from: str = ""
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleChange:
    """One line of a rule's history: the rule as it was after the change; None when it was removed."""

    name: str
    version: int
    changed_at: datetime
    actor: str
    action: str
    rule: Rule | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClauseVerdict:
    """One clause, the value it saw, and whether it held."""

    clause: str
    seen: str
    holds: bool


class DecisionCode(StrEnum):
    """What came of one rule on one series, or on a role that no series plays."""

    RUNS = "runs"
    #: A clause of the rule or a demand of the pipeline does not hold.
    UNFIT = "unfit"
    #: It would do, but the rule prefers another series.
    OUTRANKED = "outranked"
    #: An input is missing that may come yet; `reason` says until when.
    WAITS = "waits"
    #: An input is missing that did not come in time, and the rule allows no run without it.
    HELD = "held"
    #: The run goes without this input, as the rule allows.
    ABSENT = "absent"
    NOT_INSTALLED = "not-installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One rule on one series, in one role: every clause, and what came of it."""

    rule: str
    rule_version: int
    pipeline: str
    #: Empty for a role that no series plays.
    series_instance_uid: str
    matched: bool
    #: Clauses of the rule, then the demands of the pipeline's manifest.
    clauses: tuple[ClauseVerdict, ...]
    #: A sentence: why this series runs, or what would have to change.
    reason: str
    workitem_uid: str | None = None
    #: The input it was looked at for; empty when the pipeline takes no such series.
    role: str = ""
    #: One of `DecisionCode`; empty in what an older version decided.
    code: str = ""


# -- what runs ----------------------------------------------------------------------------------


class WorkitemState(StrEnum):
    """PS3.4 Table CC.1.1-1. A failed workitem is CANCELED with a reason code."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkitemInput:
    """The instances one role of the pipeline gets."""

    role: str
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorReference:
    """One evidence instance of an earlier result."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """The earlier result that a run compares its own with; or, without a workitem, that there is none."""

    workitem_uid: str = ""
    pipeline_version: str = ""
    #: Days from its Study Date to that of the study analysed.
    interval_days: int = 0
    #: How far it was looked back, in days.
    within_days: int = PRIOR_DAYS
    #: Segment Label -> volume, mL.
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    #: Its evidence; where it made none, the images that it analysed.
    evidence: tuple[PriorReference, ...] = ()
    #: Why there is none, where an archive was asked: a sentence.
    reason: str = ""


class PriorSearchState(StrEnum):
    """How far the search for an earlier study is."""

    WANTED = "WANTED"
    #: It is held; its result is made.
    FETCHED = "FETCHED"
    #: There is a result, or a reason why there is none.
    SETTLED = "SETTLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorSearch:
    """A study before, wanted of an archive to compare a study with by a rule."""

    study_instance_uid: str
    rule: str
    pipeline: str
    destination: str
    within_days: int
    state: PriorSearchState
    wanted_at: datetime
    #: When the study goes on without.
    deadline: datetime
    next_attempt_at: datetime
    attempts: int = 0
    #: The study that was found; empty while there is none.
    prior_study_instance_uid: str = ""
    #: Whether the study was fetched: it is there for comparison alone, and starts no other work.
    is_fetched: bool = False
    workitem_uids: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workitem:
    """One pipeline on one set of inputs."""

    #: Derived from pipeline, version, parameters and sorted input UIDs (`pipelines.uids`).
    workitem_uid: str
    study_instance_uid: str
    study_revision: int
    rule: str
    pipeline: str
    pipeline_version: str
    parameters: Parameters
    inputs: tuple[WorkitemInput, ...]
    destinations: tuple[str, ...]
    priority: int
    state: WorkitemState
    scheduled_at: datetime
    attempts: int = 0
    not_before: datetime | None = None
    #: When the analysis that counts started: Content Date and Time of its evidence.
    started_at: datetime | None = None
    ended_at: datetime | None = None
    owner: str | None = None
    #: Coded reason of the last failure, with a sentence that says who must act.
    reason_code: str | None = None
    reason: str | None = None
    #: Seconds per step (load, infer, encode, ...) of the completed run.
    timings: Mapping[str, float] = field(default_factory=dict)
    #: What a reader of the completed run's result must know: code, sentence.
    notices: tuple[tuple[str, str], ...] = ()
    #: As its rule says.
    report_refusals: bool = False
    #: What the priority is made of, a sentence each.
    priority_reasons: tuple[str, ...] = ()
    #: When it may start (`node.windows`); None: at any time.
    window: str | None = None
    #: Since when a person holds it back, and why; PS3.4 Annex CC knows no such state: it stays SCHEDULED.
    held_at: datetime | None = None
    hold_reason: str | None = None
    #: Segment Label -> Tracking UID of the same structure in the patient's last result of this pipeline.
    known_findings: Mapping[str, str] = field(default_factory=dict)
    #: The workitem whose evidence this one's replaces: its reports name those of that one.
    predecessor: str | None = None
    #: The workitem that was scheduled in place of this one; its evidence counts when it is there.
    superseded_by: str | None = None
    #: What did not come of its inputs, which are analysed all the same, as far as they have no gap: code, sentence.
    lacks: tuple[tuple[str, str], ...] = ()
    #: What its result is compared with; None where the rule does not ask.
    prior: Prior | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentResidual:
    """How far one segment, read back from the written SEG, is from the label map."""

    label: str
    voxels: int
    #: Voxels read back minus voxels of the label map.
    voxels_off: int
    #: Voxels that differ, place by place.
    voxels_differing: int
    volume_ml: float
    volume_off_ml: float
    #: Distance of the two centroids in patient space; 0 for an empty segment.
    centroid_off_mm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One DICOM instance made of a result, in the archive."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    workitem_uid: str
    #: `SEG`, `SR`, ...
    kind: str
    archive_key: str
    size: int
    digest: str
    created_at: datetime
    #: Names of the profiles it was made for: destinations of these get it.
    profiles: tuple[str, ...] = ()
    #: How far each segment, read back, is from the result: what its proof measured.
    proof: tuple[SegmentResidual, ...] = ()
    #: Of a rejection note: the SOP Instance UIDs of the evidence it retracts.
    rejects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A segment of a result: what is followed from study to study by its Tracking UID (0062,0021)."""

    workitem_uid: str
    segment_number: int
    segment_label: str
    tracking_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementRow:
    """One value of a result, as the database keeps it."""

    workitem_uid: str
    pipeline: str
    pipeline_version: str
    study_instance_uid: str
    series_instance_uid: str
    segment_number: int | None
    segment_label: str
    concept_value: str
    concept_scheme: str
    concept_meaning: str
    value: float
    #: UCUM, e.g. `mL`.
    unit: str
    measured_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What one run of a workitem brought: recorded whole, or not at all."""

    workitem_uid: str
    #: Who claimed it; another owner's completion does not count.
    owner: str
    evidence: tuple[Evidence, ...]
    measurements: tuple[MeasurementRow, ...]
    started_at: datetime
    ended_at: datetime
    #: Seconds per step (load, infer, encode, ...).
    timings: Mapping[str, float] = field(default_factory=dict)
    #: Code, sentence.
    notices: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    #: Destination -> the profile whose evidence it gets.
    profiles: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A run of a workitem that brought nothing."""

    workitem_uid: str
    #: Who claimed it; another owner's failure does not count.
    owner: str
    code: str
    #: A sentence that says who must act.
    reason: str
    at: datetime
    #: When it is tried again; None: never.
    retry_at: datetime | None = None
    #: The report that says why, and destination -> the profile whose evidence it gets.
    evidence: tuple[Evidence, ...] = ()
    profiles: Mapping[str, str] = field(default_factory=dict)


# -- what a worklist asks for -------------------------------------------------------------------


class ProcedureStepState(StrEnum):
    """How far we are with a Unified Procedure Step of a worklist (PS3.4 Annex CC)."""

    #: The Transaction UID is written down; whether the worklist gave us the step is not known yet.
    CLAIMING = "CLAIMING"
    #: It is ours; its inputs are looked for, and fetched where they are missing.
    CLAIMED = "CLAIMED"
    #: Its workitems are scheduled or run, or their evidence is on its way.
    PERFORMING = "PERFORMING"
    #: It cannot be done; the worklist is still to be told.
    CANCELING = "CANCELING"
    #: The worklist knows the outputs.
    COMPLETED = "COMPLETED"
    #: The worklist knows why not, or cancelled it itself.
    CANCELED = "CANCELED"
    #: Another performer has it, or the worklist has it no more.
    LOST = "LOST"


#: Nothing is left to do.
SETTLED_STEPS = (
    ProcedureStepState.COMPLETED,
    ProcedureStepState.CANCELED,
    ProcedureStepState.LOST,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInput:
    """One item of an Input Information Sequence (0040,4021): a series, and where it can be had."""

    study_instance_uid: str
    series_instance_uid: str
    #: Instances of it; empty: all.
    sop_instance_uids: tuple[str, ...] = ()
    #: Retrieve AE Title (0008,0054) and Retrieve URL (0008,1190); empty where it does not say.
    retrieve_ae: str = ""
    retrieve_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcedureStep:
    """A Unified Procedure Step that we claim, or claimed, from a worklist."""

    worklist: str
    #: SOP Instance UID of the step.
    procedure_step_uid: str
    #: (0008,1195): whoever knows it holds the claim.
    transaction_uid: str
    state: ProcedureStepState
    study_instance_uid: str
    #: Name of the work in the configuration, and Scheduled Procedure Step Priority (0074,1200).
    work: str
    priority: str
    inputs: tuple[StepInput, ...]
    claimed_at: datetime
    next_attempt_at: datetime
    #: Attempts in a row that the worklist, or a source of inputs, did not answer.
    attempts: int = 0
    #: Workitem UID -> whether this step scheduled it; False: it was there already.
    workitems: Mapping[str, bool] = field(default_factory=dict)
    ended_at: datetime | None = None
    reason_code: str | None = None
    reason: str | None = None


# -- what is owed -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A remote application entity, or a DICOMweb service: then host and port are its URL's, and it has no AE title."""

    name: str
    host: str
    port: int
    called_ae: str
    #: Our AE title towards it; the node's own when None.
    calling_ae: str | None = None
    #: Which objects of a result it gets (`pipelines.evidence.profile`).
    profile: str = "generic"
    #: How a series is fetched from it: `move` (C-MOVE to us: it must know us) or `get` (C-GET).
    retrieve: str = "move"
    #: Whether it is connected to over TLS (PS3.15 B.12).
    tls: bool = False
    #: Whether it is asked to commit itself to what it took (PS3.4 Annex J).
    commitment: bool = False
    #: When it is sent to, as `node.windows` reads it; empty: at any time.
    window: str = ""
    #: Since when nothing is sent to it, by hand; what is owed to it waits.
    paused_at: datetime | None = None
    #: URL of its DICOMweb services (PS3.18), to which `/studies` is added; empty: it is a remote AE.
    url: str = ""

    @property
    def is_web(self) -> bool:
        """Whether it is sent to by STOW-RS."""
        return bool(self.url)


class DeliveryState(StrEnum):
    """PENDING until a C-STORE or STOW-RS answer settles it; COMMITTED by storage commitment, or by a query."""

    PENDING = "PENDING"
    SENT = "SENT"
    COMMITTED = "COMMITTED"
    FAILED = "FAILED"
    #: A newer result was there before it was sent: it is not sent any more.
    WITHDRAWN = "WITHDRAWN"
    #: It was sent, and a rejection note has told the destination not to use it.
    RETRACTED = "RETRACTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One evidence instance owed to one destination."""

    delivery_id: int
    evidence: Evidence
    destination: str
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime
    #: DIMSE status of the last answer, e.g. 0x0000; None when there was none.
    status: int | None
    message: str
    updated_at: datetime
    #: The workitem whose evidence replaces it.
    superseded_by: str | None = None
    #: Whether its destination has yet to commit itself to it.
    to_commit: bool = False
    #: Of the storage commitment that it is, or was, part of.
    transaction_uid: str | None = None
    #: Failure Reason (0008,1197) where the destination does not commit itself to it, e.g. 0x0112.
    failure_reason: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether more is to come of it by itself."""
        return self.state is DeliveryState.PENDING or (
            self.state is DeliveryState.SENT and self.to_commit
        )


class CommitmentState(StrEnum):
    """What is waited for: nobody has asked yet, a report, or what a query finds; SETTLED and EXPIRED are the ends."""

    WANTED = "WANTED"
    ASKED = "ASKED"
    READING = "READING"
    SETTLED = "SETTLED"
    #: Neither reported nor found in time. A report that comes later counts still.
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """One transaction of storage commitment: what a destination took of one workitem (PS3.4 J.3)."""

    transaction_uid: str
    destination: str
    workitem_uid: str
    state: CommitmentState
    opened_at: datetime
    #: Until when a report, or what is missing, is waited for.
    deadline: datetime
    next_attempt_at: datetime
    attempts: int
    #: Why it is not settled.
    reason: str


# -- what happened ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the audit log. `detail` never holds a value that identifies a patient."""

    kind: str
    actor: str
    at: datetime
    study_instance_uid: str | None = None
    workitem_uid: str | None = None
    outcome: str = "success"
    detail: Mapping[str, HeaderValue] = field(default_factory=dict)
    event_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSeen:
    """A pipeline version this node has had, with the digest of what it ran."""

    name: str
    version: str
    device_uid: str
    weights_sha256: str
    first_seen_at: datetime
