"""The statement as Markdown, laid out as PS3.2 Annex N has it; the annexes are `annexes`'s."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from node.conformance import annexes
from node.conformance.network import BEHAVIORS
from node.conformance.statement import Statement
from node.conformance.text import contents, table, yes
from node.conformance.web import write_web
from node.scu import Outcome
from node.tls import CIPHER_SUITES

#: What a conformance statement may offer and this node does not (PS3.2 N.1).
_ABSENT = (
    ("DICOM Web Services", "none as origin server; as user agent 5.5 and 5.6"),
    ("Media Services", "no media is written or read"),
    ("Real-Time Video Service", "none"),
    ("De-identification Profiles", "none; nothing is de-identified"),
)


def write_markdown(statement: Statement) -> str:
    """The whole document."""
    sections: tuple[Callable[[Statement], str], ...] = (
        _overview,
        _introduction,
        _model,
        _services,
        _configuration,
        _communication,
        _security,
        annexes.write_annexes,
    )
    overview, *others = (section(statement) for section in sections)
    body = "\n".join(others)
    index = "## 2 Table of contents\n\n" + contents("\n".join((overview, body)))
    return f"{_cover(statement)}\n{overview}\n{index}\n\n{body}".rstrip() + "\n"


def _cover(statement: Statement) -> str:
    return f"""\
# DICOM conformance statement and IHE integration statement

{statement.product} {statement.version}, after PS3.2 Annex N. Research use, unverified.

This text is what `osteonode conformance` prints: of the configuration in force, of the pipelines installed, and of
what the code does. Made of another configuration it says something else.
"""


def _overview(statement: Statement) -> str:
    network = statement.network
    classes = table(
        ("SOP Class", "SOP Class UID", "Created", "SCU", "SCP"),
        (
            (item.name, item.uid, yes(item.created), "Y" if item.created else "send", yes(item.scp))
            for item in network.sop_classes
        ),
    )
    absent = "\n".join(f"- {name}: {what}." for name, what in _ABSENT)
    templates = ", ".join(iod.root_template for iod in statement.iods if iod.root_template)
    services = table(
        ("DIMSE service", "SCU", "SCP"),
        (
            ("Verification", "Y", "Y"),
            ("Storage", "Y", "Y"),
            ("Storage Commitment, Push Model", "Y", "N"),
            ("Basic Worklist Management", "N", "N"),
            ("Modality Performed Procedure Step", "N", "N"),
            ("Unified Worklist and Procedure Step", "N", "N"),
            ("Instance Availability Notification", "N", "N"),
            ("Query/Retrieve, Study Root (C-FIND)", "Y", "N"),
            ("Print Management", "N", "N"),
        ),
    )
    return f"""\
## 1 Overview

{statement.product} is a node that modalities and archives send studies to. Rules choose a pipeline by what the
headers say; the pipeline's result goes out as DICOM objects in the study it was made of.

### 1.1 Content and transfer

`send`: not by the service; the command `osteonode send` sends files of any SOP Class. Composite instances that come
in are stored as they are and read by the pipelines whose inputs they fit (4.2); nothing is displayed.

{classes}

Root templates of the SR documents created: TID {templates or "none"}.

### 1.2 DIMSE services

{services}

### 1.3 Other services

{absent}

### 1.4 Specific character sets

What comes in is kept as it is encoded, in any character set. What is created has the Specific Character Set of its
source where that is
defined and holds our own texts too, else ISO_IR 192.
"""


def _introduction(statement: Statement) -> str:
    return f"""\
## 3 Introduction

Version {statement.version} of {statement.product} is described, and no other. The reader knows DICOM and the statement
of the peer; comparing the two is the first step of an integration and no test of it.

AE: Application Entity. IOD: Information Object Definition. SCP: Service Class Provider. SCU: Service Class User.
SEG: Segmentation. SOP: Service-Object Pair. SR: Structured Report. TID: template of PS3.16.

References: DICOM PS3.2 to PS3.16; IHE Radiology, AI Results (AIR) Rev. 1.3 and AI Workflow for Imaging (AIW-I).
"""


def _model(statement: Statement) -> str:
    inputs = table(
        (
            "Pipeline",
            "Version",
            "Title",
            "Segment types",
            "Input",
            "Modality",
            "Required",
            "What it takes",
        ),
        (
            (
                pipeline.name,
                pipeline.version,
                pipeline.title,
                len(pipeline.segments),
                one.role,
                ", ".join(one.modality),
                yes(not one.optional),
                one.description,
            )
            for pipeline in statement.pipelines
            for one in pipeline.inputs
        ),
    )
    return f"""\
## 4 Implementation model

### 4.1 Application entity and data flow

One application entity, {statement.network.ae_title}, accepts associations and opens them.

1. A peer sends instances. Each is answered with success after its file is synced and its row in the database is
   committed.
2. When a study is whole, or no instance of it came for `[routing] quiet_s`, or it is released by hand, rules decide
   which pipelines run on which of its series. That it is whole is told by the release of the association, by the
   positions of the slices and, where `[routing] ask` names the sender, by its archive's counts (C-FIND).
3. A pipeline's result becomes the objects of Annex A. What was written is read back and compared with the result
   before it goes out.
4. The objects are sent to the destinations that the rule names, in the patient and study of the source.

Objects that the node made start no pipeline when they come back.

### 4.2 Pipelines

{inputs if statement.pipelines else "No pipeline is installed: no object is created."}
"""


def _services(statement: Statement) -> str:
    profiles = statement.profiles
    keys = list(next(iter(profiles.values()))) if profiles else []
    rows = ([name, *(_plain(profile[key]) for key in keys)] for name, profile in profiles.items())
    made = ", ".join(iod.sop_class.name for iod in statement.iods)
    return f"""\
## 5 Service and interoperability description

### 5.1 Verification service

SCP: C-ECHO is answered with 0x0000. SCU: `osteonode echo` and `osteonode destinations echo` ask with C-ECHO.

### 5.2 Storage service as SCP

Level 2 (full): all attributes are kept, private ones too. Nothing is decoded, transcoded, coerced or renamed. The
same instance sent again is answered with success and changes nothing. The same SOP Instance UID with other content
is answered with success, kept beside the first, and audited; it does not replace it. Whether content is other is
told by the BLAKE3 digest of the encoded data set, without file meta information. An administrator may let the other
content count (`osteonode studies accept`); the first is kept beside it then.

### 5.3 Storage service as SCU

Objects are sent as they are encoded; an uncompressed one in Implicit VR Little Endian where the peer accepts nothing
else, one in RLE or JPEG-LS Lossless decompressed to Explicit or Implicit VR Little Endian where the peer does not
accept its compression. UIDs are derived from the inputs, the pipeline, its version and parameters (root
`[node] uid_root`): made or sent again, it is the same object. After a failure that may pass
the pause before another attempt doubles from `[delivery] backoff_s` to `[delivery] backoff_max_s`; after
`[delivery] max_attempts` the delivery is FAILED.

A destination's profile names the objects and forms it is meant to get. Whatever a profile asks for, no object leaves
that Annex A does not describe: {made}. Where a rule says so, a study that was refused or whose run failed leaves a
Comprehensive 3D SR as well, which says in codes and in words that the analysis was not done; it has the attributes of
A.3, and no measurements (it is not TID 1500).

A result that replaces an older one (instances came late, a rule changed) names the older report in its own: Predecessor
Documents Sequence (0040,A360) of A.3. Of the older result nothing more is sent. Where the profile says `retract`, a
rejection note (IHE RAD TF-3 4.66) follows when the destination has taken all of the newer result: a Key Object
Selection Document with the title (113001, DCM, "Rejected for Quality Reasons"), which names every instance of the
older result that the destination was sent.

{table(("Profile", *(key.replace("_", " ") for key in keys)), rows)}

Storage Commitment (Push Model, PS3.4 Annex J), where a destination is asked for it: when nothing of a workitem is on
its way there any more, one N-ACTION names all of it that was sent. The N-EVENT-REPORT is taken on the same association,
which stays open for `[delivery] commit_wait_s`, or on one that the peer opens to `[node] ae_title`, where it proposes
the SCP role; a peer that negotiates no role is heard as well. The report is answered with 0x0000 when it is in the
index, with 0x0110 when the database does not answer, with 0x0115 when it names no transaction of ours, with 0x0113 when
its Event Type is neither 1 nor 2. Each instance is COMMITTED or, with its Failure Reason, FAILED. After
`[delivery] commit_deadline_s` without an answer or a report, or at once where the service is not accepted or is
refused, a C-FIND (Study Root, IMAGE level) in the series sent says what is held; what is missing at the deadline has
failed with 0x0112. A report that comes later counts still. An N-ACTION from a peer is answered with 0x0211: nothing is
kept for good here.

### 5.4 Query/Retrieve service as SCU

C-FIND of the Study Root model asks the destinations that `[routing] ask` names how much they have of a study that
they sent: at the STUDY level with Study Instance UID, Number of Study Related Series and Number of Study Related
Instances, at the SERIES level with Study and Series Instance UID, Modality and Number of Series Related Instances.
Counts that are not returned stay unknown. A study is asked about after it fell quiet and again after its next
instance; after a failure, the pause before another question doubles. Nothing is retrieved.
Where a rule compares with the study before and names an archive, that archive is asked by C-FIND (Study Root; keys of
STUDY: Patient ID, Issuer of Patient ID, Study Date as a range, Study Time; of SERIES: Modality, Series Description,
Number of Series Related Instances; of IMAGE: SOP Class UID). The series chosen is fetched by C-MOVE to `[node]
ae_title`, or by C-GET, as the destination says; for C-GET each SOP Class of the series is proposed with the SCP role.

### 5.5 Unified Procedure Step service as pull performer (UPS-RS, PS3.18 11)

{_worklists(statement)}

### 5.6 Storage and search over the web (STOW-RS and QIDO-RS as user agent, PS3.18 10.5 and 10.6)

{write_web(_FAILED)}
"""


def _worklists(statement: Statement) -> str:
    performer = next(one for one in statement.actors if one.name == "Task Performer")
    if not performer.supported:
        return "No worklist is configured (`[ups.worklists.NAME]`)."
    (item,) = performer.transactions
    return f"""\
{item.remark}. As user agent: Search (by Procedure Step State and Scheduled Workitem Code), Retrieve, Update
(Transaction UID as query parameter and in the data set), Change Workitem State to IN PROGRESS, COMPLETED, CANCELED;
application/dicom+json. Told on the way: Procedure Step Progress Information Sequence; at the end UPS Performed
Procedure Sequence with Output Information Sequence (DICOM Retrieval), or Procedure Step Discontinuation Reason Code
Sequence (CID 9300) and Reason For Cancellation. Inputs are fetched by WADO-RS or C-MOVE. No subscriptions: what others
do to a step is seen by Retrieve."""


def _plain(value: object) -> str:
    return yes(value) if isinstance(value, bool) else str(value)


def _configuration(statement: Statement) -> str:
    rows = (
        (f"`{item.name}`", _value(item.value), _value(item.default), item.description)
        for item in statement.settings
    )
    return f"""\
## 6 Configuration

Settings that a peer sees something of. Destinations (`osteonode destinations add`) have a host, a port, an AE title
and, where it differs, our AE title towards them; or the URL of DICOMweb services.

{table(("Setting", "In force", "Default", "What it is"), rows)}
"""


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {one}" for key, one in value.items()) or "(none)"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "(none)"
    return str(value).lower() if isinstance(value, bool) else str(value) or "(empty)"


def _communication(statement: Statement) -> str:
    network = statement.network
    parameters = table(
        ("Parameter", "As acceptor", "As requestor"),
        ((item.name, item.acceptor, item.initiator) for item in network.parameters),
    )
    proposed = table(
        ("Abstract syntax", "UID", "Transfer syntax", "UID", "Role", "Extended negotiation"),
        (
            (
                item.abstract_syntax.name,
                item.abstract_syntax.uid,
                ", ".join(syntax.name for syntax in item.transfer_syntaxes),
                ", ".join(syntax.uid for syntax in item.transfer_syntaxes),
                "SCU",
                "none",
            )
            for item in network.proposed
        ),
    )
    syntaxes = table(
        ("Transfer syntax", "UID"),
        ((item.name, item.uid) for item in network.accepted_transfer_syntaxes),
    )
    scp = table(
        ("Status", "Meaning", "When"),
        (
            (_codes(item.first, item.last), item.meaning, item.behavior)
            for item in network.store_scp
        ),
    )
    scu = table(
        ("Status", "Meaning", "Then"),
        [
            *(
                (_codes(item.first, item.last), item.meaning, item.behavior)
                for item in network.store_scu
            ),
            ("none", "the association is rejected or lost, or there is no answer", _RETRIED),
            ("any other", "refused", _FAILED),
        ],
    )
    return f"""\
## 7 Network and media communication details

### 7.1 Association parameters

{parameters}

### 7.2 Association initiation

For a delivery, with the contexts of the objects it holds; one association for the objects of a destination.
`osteonode send` proposes the SOP Class and the transfer syntax of each file, and Implicit VR Little Endian beside an
uncompressed one. A question (C-FIND) and a request for storage commitment have an association of their own.

{proposed}

### 7.3 Association acceptance

Every SOP Class of 1.1 with SCP = Y is accepted in every transfer syntax below; of those proposed for a SOP Class the
first that the requestor names is taken. The role is SCP. For the Storage Commitment Push Model, which is accepted for
reports on what we asked for, SCP/SCU Role Selection is answered as proposed. Otherwise Role Selection, Asynchronous
Operations Window and SOP Class Extended Negotiation are not answered: the defaults hold.

{table(("An association is rejected as", "when"), network.rejections)}

{syntaxes}

### 7.4 Status codes

C-ECHO is answered with 0x0000. C-STORE as SCP:

{scp}

C-STORE as SCU, what is made of the answer:

{scu}
"""


_RETRIED, _FAILED = (BEHAVIORS[outcome] for outcome in (Outcome.RETRY, Outcome.PERMANENT))


def _codes(first: int, last: int) -> str:
    return f"0x{first:04X}" if first == last else f"0x{first:04X} - 0x{last:04X}"


def _security(statement: Statement) -> str:
    network = statement.network
    return f"""\
## 8 Security

- Profiles of PS3.15: BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile (B.12), as acceptor and requestor:
  TLS 1.3, and TLS 1.2 with {", ".join(CIPHER_SUITES[:2])},
  {", ".join(CIPHER_SUITES[2:])}.
  It is an option ([tls] in the configuration). Certificates of senders are asked for unless `mutual` is false; those of
  destinations (`--tls`) must have their host name.
- TCP: listens on {network.host}: {network.listeners}; opens connections to the destinations.
- Associations are limited by network, calling AE title, certificate, service, number and rate ([receive]).
- User Identity Negotiation: not proposed; where a requestor proposes it, it is neither checked nor answered.
- AE titles are checked as 7.3 says. They are names, not proof, unless they are tied to a certificate.
- Associations, instances received and sent, changes of rules and destinations are logged in the database
  (`osteonode audit list`); no audit messages are sent.
- Files are not encrypted by the node.
"""
