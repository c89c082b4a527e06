"""Every setting of the node, checked once: TOML (and environment) -> `Config`.

Nobody else reads files or environment. `config.example.toml` is written by `example()` and compared by a test.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast
from urllib.parse import quote
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from tzlocal import get_localzone

from node.errors import ConfigError
from pipelines.evidence.profile import PROFILES, Profile, ProfileName

#: The file read when no other is named.
DEFAULT_PATH = Path("config.toml")
#: `OSTEONODE_RECEIVE__QUIET_S=5` sets `quiet_s` of `[receive]`.
ENVIRONMENT_PREFIX = "OSTEONODE_"

#: PS3.5 Table 6.2-1: AE, 16 characters at most, no backslash or control characters.
AETitle = Annotated[str, Field(pattern=r"^[!-\[\]-~][ -\[\]-~]{0,15}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
DestinationName = Annotated[str, Field(min_length=1)]
UID = Annotated[str, Field(pattern=r"^(0|[1-9]\d*)(\.(0|[1-9]\d*))*$", max_length=64)]


#: What a calling AE may ask for: C-ECHO, C-STORE, queries (PS3.4 C), storage commitment (PS3.4 J).
Right = Literal["echo", "store", "query", "commit"]


#: How `[receive] callers` are written.
CALLERS_EXAMPLE = """\
# [receive.callers.CT_ONE]
# networks = ["10.1.2.0/24"]      # addresses it may come from; empty: any
# may = ["echo", "store"]         # what it may ask for: echo, store, query, commit; all where it is left out
# certificate = "ct1.example.org" # a name that its TLS certificate must have; empty: any that is accepted
"""


#: How `[pipelines] settings` are written.
SETTINGS_EXAMPLE = """\
# [[pipelines.settings.qct_femur]]
# where = ["StationName = CT01", "KVP = 120"]
# parameters = { calibration_slope = 0.82, calibration_intercept = -3.1, calibration_name = "CT01, 120 kV" }
"""


#: How `[ups] worklists` are written.
WORKLISTS_EXAMPLE = """\
# [ups.worklists.pacs]
# url = "https://pacs.example.org/dicom-web"  # of its DICOMweb services; workitems are under /workitems
# token_file = "pacs.token"       # a bearer token, read again for each request
# certificate = "node.crt"        # client certificate, with key = "node.key"
# ca = "hospital.crt"             # who signs its certificate; empty: the system's authorities
# retrieve_url = ""               # WADO-RS for inputs that do not say where they are; empty: url
# station = ""                    # VALUE^SCHEME: only steps for this Scheduled Station Name, or for none
# poll_s = 30.0                   # seconds between two looks at the worklist
# timeout_s = 30.0                # seconds to wait for an answer
# input_wait_s = 3600.0           # seconds within which the inputs of a claimed step must come
# at_once = 4                     # steps claimed at a time
# [[ups.worklists.pacs.work]]
# code = "SKELETON^99HOSPITAL"    # Scheduled Workitem Code: VALUE^SCHEME
# rule = "bones"                  # does what this rule says, enabled or not
# [[ups.worklists.pacs.work]]
# code = "FEMUR^99HOSPITAL"
# pipeline = "qct_femur"          # or a pipeline, with its destinations
# to = ["PACS"]
"""


#: How `[delivery] web` is written.
WEB_EXAMPLE = """\
# [delivery.web.PACS]             # for `osteonode destinations add PACS --web https://pacs.example.org/dicom-web`
# token_file = "pacs.token"       # a bearer token, read again for each request
# user = "osteonode"              # or a user, with password_file = "pacs.password"
# certificate = "node.crt"        # or a client certificate, with key = "node.key"
# ca = "hospital.crt"             # who signs its certificate; empty: the system's authorities
# token and password may stand here instead of their files; best from the environment:
# OSTEONODE_DELIVERY__WEB='{"PACS": {"token": "..."}}'
"""


#: How `[evidence] profiles` are written.
PROFILES_EXAMPLE = """\
# [evidence.profiles.archive]
# segmentation = "labelmap"  # binary, labelmap or none
# compression = "rle"        # native, rle or jpeg-ls
# report = true              # SR, TID 1500
# contours = false           # contours on key slices within the SR
# secondary_capture = false  # images with contours burnt in, and a page of measurements
# pdf = false                # Encapsulated PDF
# rtstruct = false           # RT Structure Set
# key_objects = false        # Key Object Selection
# retract = false            # rejection note for what a newer result replaces (IHE IOCM)
"""


class _Section(BaseModel):
    # No infinity: a time without end cannot be added to a clock.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NodeSection(_Section):
    """Who this node is."""

    ae_title: AETitle = Field("OSTEONODE", description="Our AE title, called and calling.")
    host: str = Field(
        "0.0.0.0",  # noqa: S104 - a PACS must reach it
        description="Address to listen on; 127.0.0.1 for this machine only.",
    )
    port: Port = Field(11112, description="Port of the DICOM listener.")
    data: Path = Field(
        Path("data"), description="Folder under which everything the node writes lies."
    )
    institution: str = Field(
        "",
        max_length=64,
        description="Institution Name written as contributing equipment; may stay empty.",
    )
    serial_number: str = Field(
        "1",
        min_length=1,
        max_length=64,
        description="Device Serial Number (0018,1000) of this installation.",
    )
    uid_root: Annotated[UID, Field(max_length=30)] = Field(
        "2.25",
        description="Root of the UIDs we make: your own registered root, or 2.25 (UUIDs, PS3.5 B.2).",
    )
    timezone: str = Field(
        "",
        description="Time zone of rules' windows, as Europe/Berlin; empty: the system's.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line written."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Log lines for people or for machines."
    )

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            return ZoneInfo(name).key if name else name
        except (ValueError, LookupError, OSError) as error:
            raise ValueError("there is no such time zone; write it as Europe/Berlin") from error


class CallerSetting(_Section):
    """One AE title that may call, and what it may do."""

    networks: tuple[IPvAnyNetwork, ...] = Field((), description="Addresses it may come from.")
    may: tuple[Right, ...] = Field(
        ("echo", "store", "query", "commit"), description="What it may ask for."
    )
    certificate: str = Field("", description="A name that its TLS certificate must have.")


class ReceiveSection(_Section):
    """What comes in."""

    check_called_ae: bool = Field(
        True, description="Reject associations that do not call us by our AE title."
    )
    calling_ae: tuple[AETitle, ...] = Field(
        (),
        description="AE titles that may send, from anywhere; where there are none here and none below: any.",
    )
    callers: Mapping[AETitle, CallerSetting] = Field(
        {},
        description="AE titles that may call, each with its addresses and rights, as [receive.callers.AE_TITLE].",
    )
    networks: tuple[IPvAnyNetwork, ...] = Field(
        (),
        description='Networks that may connect at all, as ["10.1.0.0/16"]; empty: any. Others are closed unheard.',
    )
    private_sop_classes: tuple[UID, ...] = Field(
        (), description="Private SOP Class UIDs to accept besides all standard storage classes."
    )
    max_associations: int = Field(
        64, ge=1, description="Associations at once; one more is rejected for now."
    )
    max_associations_per_address: int = Field(
        0, ge=0, description="The same for each address; 0: no limit of its own."
    )
    max_rate: float = Field(
        50.0,
        ge=0,
        description="Associations a second that one address may ask for, on average over 10 s; more are rejected for "
        "now; 0: any number.",
    )
    max_waiting: int = Field(
        256,
        ge=2,
        description="Connections at once that have not asked for an association yet, half of them from one address; "
        "more are closed.",
    )
    request_timeout_s: float = Field(
        10.0,
        gt=0,
        description="Seconds within which a connection must have asked for an association, TLS included.",
    )
    pdu_timeout_s: float = Field(
        30.0, gt=0, description="Seconds that a PDU may take from its first byte to its last."
    )
    max_pdu: int = Field(
        262144,
        ge=4096,
        description="Largest PDU we announce, in bytes; large ones cost fewer reads.",
    )
    streaming: bool = Field(
        True,
        description="Write instances to the disk as they come. false: the plain path, three times slower, by "
        "pynetdicom alone, which holds each in memory; for a sender that stumbles over ours (tell us).",
    )
    idle_timeout_s: float = Field(
        60.0, gt=0, description="Seconds without a message after which an association is aborted."
    )


class TlsSection(_Section):
    """DICOM over TLS 1.2 and 1.3 (PS3.15 B.12, BCP 195). Files are PEM, read again when they change."""

    certificate: str = Field(
        "",
        description="Our certificate, with those between it and its authority; empty: no TLS listener.",
    )
    key: str = Field("", description="Its private key.")
    key_password_file: str = Field(
        "", description="File with the password of the key, where it is encrypted."
    )
    authorities: str = Field(
        "",
        description="Certificates of the authorities that sign those of peers; empty: the system's, for destinations.",
    )
    crl_file: str = Field(
        "",
        description="Revocation lists (CRL), one of each of these authorities: who is on one, or whose authority has "
        "no valid one, is refused; empty: not asked.",
    )
    mutual: bool = Field(
        True, description="Accept only peers that show a certificate of these authorities."
    )
    port: int = Field(
        2762, ge=0, le=65535, description="Port of the TLS listener; 0: none (destinations only)."
    )
    only: bool = Field(False, description="Do not listen on node.port, without TLS, at all.")

    @property
    def listens(self) -> bool:
        """Whether there is a TLS listener."""
        return bool(self.certificate and self.port)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("give certificate and key, or neither")
        if self.listens and self.mutual and not self.authorities:
            raise ValueError(
                "mutual needs authorities: whose certificates are accepted; or set mutual = false"
            )
        if self.crl_file and not self.authorities:
            raise ValueError("crl_file needs authorities: those whose lists it holds")
        if self.only and not self.listens:
            raise ValueError("only needs certificate, key and port: else nothing could come in")
        return self


class StorageSection(_Section):
    """Where things lie."""

    database: str = Field(
        "",
        description="SQLAlchemy URL; empty: SQLite in the data folder. PostgreSQL: postgresql+psycopg://user@host/name.",
    )
    database_password: SecretStr = Field(
        SecretStr(""),
        description="Its password, where the URL has none; best from the environment (this name, or PGPASSWORD).",
    )
    database_password_file: str = Field(
        "", description="File with that password; before database_password."
    )
    archive: str = Field(
        "", description="fsspec URL or folder of the archive; empty: archive in the data folder."
    )


class RoutingSection(_Section):
    """When a study is looked at."""

    quiet_s: float = Field(
        60.0,
        ge=0,
        description="Seconds without a new instance after which a study is evaluated, whatever else is known.",
    )
    released_quiet_s: float = Field(
        5.0,
        ge=0,
        description="The same where the association was released, no slice is missing between others, and every "
        "input that rules want is there; a sender that pauses is given three times its longest pause.",
    )
    count_quiet_s: float = Field(
        2.0, ge=0, description="The same where as many instances came as the sender's archive has."
    )
    ask: Mapping[AETitle, DestinationName] = Field(
        {},
        description="Which destination is asked (C-FIND) how many instances a study has, by the AE title that sends: "
        '{ "PACS_AE" = "PACS" }.',
    )
    ask_timeout_s: float = Field(
        5.0, gt=0, description="Seconds to wait for each step of such a question."
    )
    priorities: Mapping[AETitle, Annotated[int, Field(ge=-100, le=100)]] = Field(
        {},
        description="Points added to a rule's priority by calling AE title, as { ER_CT = 20 }; may be negative.",
    )


class SiteSetting(_Section):
    """What one scanner, or one protocol, needs to be told: parameters of a pipeline for the series that fit."""

    where: tuple[str, ...] = Field(
        (), description="Clauses as in a rule, which all must hold; none: every series."
    )
    parameters: Mapping[str, Annotated[str | int | float | bool, Field(union_mode="smart")]] = (
        Field(min_length=1, description="Parameters of the pipeline; a rule's own count over them.")
    )


class PipelinesSection(_Section):
    """Which pipelines there are."""

    folders: tuple[Path, ...] = Field(
        (),
        description="Folders that hold pipelines of your own, one folder each, besides those that ship.",
    )
    settings: Mapping[str, tuple[SiteSetting, ...]] = Field(
        {},
        description="Parameters by scanner, as [[pipelines.settings.NAME]]; the first whose clauses hold counts.",
    )


class ComputeSection(_Section):
    """Where workitems run."""

    scheduler: str = Field(
        "",
        description="Address of a Dask scheduler (tcp://host:8786); empty: workers on this machine.",
    )
    devices: tuple[str, ...] = Field(
        (),
        description="Devices, one worker process each, as cuda:0; empty: every GPU, or else cpu.",
    )
    threads: int = Field(0, ge=0, description="CPU threads of a worker; 0: all cores.")
    memory_mb: int = Field(
        0,
        ge=0,
        description="Resident megabytes at which a worker is stopped; 0: the limit in the pipeline's manifest.",
    )
    max_attempts: int = Field(
        3, ge=1, description="Runs of one workitem before a stopped worker makes it fail."
    )
    retry_s: float = Field(10.0, ge=0, description="Seconds between such runs.")
    limits: Mapping[str, Annotated[int, Field(ge=0)]] = Field(
        {},
        description="Most runs of a pipeline at once, as { ct_trunk_muscle = 1 }, by all nodes on one index; 0: none.",
    )
    confine: bool = Field(
        True,
        description="Keep pipelines on this machine from the network, and from changing files, where the kernel can "
        "(Linux 6.7, Landlock).",
    )


class EvidenceSection(_Section):
    """What destinations get of a result."""

    profiles: Mapping[ProfileName, Profile] = Field(
        {},
        description="Your own sets of objects, as [evidence.profiles.NAME], chosen by `osteonode destinations add "
        "--profile NAME`. There are generic, ohif, slicer, legacy, radiotherapy; yours of such a name counts instead.",
    )

    @property
    def known_profiles(self) -> dict[str, Profile]:
        """Those that ship, and those of the configuration over them."""
        return {**PROFILES, **self.profiles}

    def profile(self, name: str) -> Profile:
        """The profile of a name.

        Raises
        ------
        ConfigError
            Naming those there are.
        """
        if (found := self.known_profiles.get(name)) is None:
            raise ConfigError(
                f"There is no profile {name!r}; there is {', '.join(self.known_profiles)} (`osteonode destinations "
                "profiles`); add your own under [evidence.profiles] in the configuration."
            )
        return found


Url = Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")]


class WebSetting(_Section):
    """Who we are to a DICOMweb service, and how we know it."""

    token_file: Path | None = Field(None, description="File with a bearer token.")
    token: SecretStr = Field(SecretStr(""), description="The token, where there is no file.")
    user: str = Field("", pattern=r"^[^:]*$", description="User name (HTTP Basic).")
    password_file: Path | None = Field(None, description="File with the password of the user.")
    password: SecretStr = Field(SecretStr(""), description="It, where there is no file.")
    certificate: Path | None = Field(None, description="Our client certificate, PEM.")
    key: Path | None = Field(None, description="Its private key, PEM.")
    ca: Path | None = Field(None, description="Who signs its certificate, PEM.")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        has_token = self.token_file is not None or bool(self.token.get_secret_value())
        has_password = self.password_file is not None or bool(self.password.get_secret_value())
        if has_token and self.user:
            raise ValueError("give a token or a user: both are sent in the same header")
        if has_password and not self.user:
            raise ValueError("a password needs its user")
        if self.key is not None and self.certificate is None:
            raise ValueError("a key needs its certificate")
        return self


_Web = TypeVar("_Web", bound=WebSetting)


class DeliverySection(_Section):
    """How evidence goes out."""

    max_attempts: int = Field(
        20, ge=1, description="Attempts before a delivery fails; it can be retried by hand."
    )
    backoff_s: float = Field(
        10.0, gt=0, description="Seconds before the second attempt; doubled each time."
    )
    backoff_max_s: float = Field(3600.0, gt=0, description="Most seconds between two attempts.")
    timeout_s: float = Field(
        30.0, gt=0, description="Seconds to wait for a connection, an association or an answer."
    )
    commit_wait_s: float = Field(
        5.0,
        ge=0,
        description="Seconds that an association stays open for a storage commitment report on it.",
    )
    commit_deadline_s: float = Field(
        3600.0,
        gt=0,
        description="Seconds to wait for a storage commitment report; then what was sent is read back by C-FIND "
        "(QIDO-RS where the destination is a DICOMweb service).",
    )
    web: Mapping[DestinationName, WebSetting] = Field(
        {},
        description="Who we are to destinations that are DICOMweb services, as [delivery.web.NAME].",
    )


#: Value and coding scheme of a code: PS3.5 Table 6.2-1, SH.
CodeText = Annotated[str, Field(pattern=r"^[^\\^]{1,64}\^[^\\^]{1,16}$")]


class WorkSetting(_Section):
    """What one kind of step of a worklist is to us: a rule, or a pipeline with its destinations."""

    code: CodeText = Field(description="Scheduled Workitem Code (0040,4018): VALUE^SCHEME.")
    rule: str = Field("", description="Name of a rule, which may be disabled for other studies.")
    pipeline: str = Field("", description="Name of a pipeline, where there is no rule.")
    to: tuple[str, ...] = Field((), description="Destinations of the pipeline's results.")

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if bool(self.rule) == bool(self.pipeline) or bool(self.pipeline) != bool(self.to):
            raise ValueError("give either rule, or pipeline and to")
        return self


class WorklistSetting(WebSetting):
    """A worklist of Unified Procedure Steps (PS3.18 11)."""

    url: Url = Field(description="URL of its DICOMweb services; workitems are under /workitems.")
    work: tuple[WorkSetting, ...] = Field(min_length=1, description="Which steps are ours.")
    retrieve_url: Url | Literal[""] = Field("", description="WADO-RS; empty: url.")
    station: CodeText | Literal[""] = Field("", description="Our Scheduled Station Name Code.")
    poll_s: float = Field(30.0, gt=0, description="Seconds between two looks.")
    timeout_s: float = Field(30.0, gt=0, description="Seconds to wait for an answer.")
    input_wait_s: float = Field(3600.0, ge=0, description="Seconds to wait for inputs.")
    at_once: int = Field(4, ge=1, description="Steps claimed at a time.")


class UpsSection(_Section):
    """Worklists of Unified Procedure Steps that this node takes work from (IHE AIW-I Task Performer)."""

    worklists: Mapping[ProfileName, WorklistSetting] = Field(
        {},
        description="Worklists, as [ups.worklists.NAME], each with the work that is ours, as "
        "[[ups.worklists.NAME.work]].",
    )


#: A time of day, as 02:30.
DayTime = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]


class IntegritySection(_Section):
    """How often the archive is held against the index."""

    nights: int = Field(
        28,
        ge=0,
        description="A share of the archive is verified each night, all of it in so many nights; 0: never.",
    )
    at: DayTime = Field("01:00", description="When, by the time zone of [node].")
    rate_mb_s: float = Field(
        20.0,
        ge=0,
        description="Megabytes a second that are read at most, so that receiving keeps the disk; 0: no limit.",
    )


class DiskSection(_Section):
    """What is refused before the disk of the archive, or of the data folder, is full."""

    low_mb: float = Field(
        2000.0,
        ge=0,
        description="Free megabytes below which associations are rejected for now; 0: never.",
    )
    full_mb: float = Field(
        500.0,
        ge=0,
        description="Free megabytes below which instances are answered with 0xA700; 0: when no byte is free.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.full_mb > self.low_mb:
            raise ValueError("full_mb is reached after low_mb: it must be the smaller")
        return self


class RetentionSection(_Section):
    """When files leave the archive; rows stay. Never those of a study that is not done with."""

    received_days: float = Field(
        0.0, ge=0, le=36500, description="Days that received instances are kept; 0: for ever."
    )
    evidence_days: float = Field(
        0.0, ge=0, le=36500, description="Days that what we made is kept; 0: for ever."
    )
    max_gb: float = Field(
        0.0,
        ge=0,
        description="Gigabytes above which the oldest studies that are done with expire before; 0: no limit.",
    )
    when: Literal["sent", "committed"] = Field(
        "sent", description="What all deliveries of a study must be before anything of it expires."
    )
    at: DayTime = Field("03:00", description="When, by the time zone of [node].")


class Config(_Section):
    """All settings."""

    node: NodeSection = NodeSection()
    receive: ReceiveSection = ReceiveSection()
    tls: TlsSection = TlsSection()
    storage: StorageSection = StorageSection()
    routing: RoutingSection = RoutingSection()
    pipelines: PipelinesSection = PipelinesSection()
    compute: ComputeSection = ComputeSection()
    evidence: EvidenceSection = EvidenceSection()
    delivery: DeliverySection = DeliverySection()
    ups: UpsSection = UpsSection()
    integrity: IntegritySection = IntegritySection()
    disk: DiskSection = DiskSection()
    retention: RetentionSection = RetentionSection()

    @property
    def database_url(self) -> str:
        """The index's URL; SQLite in the data folder unless set.

        Raises
        ------
        ConfigError
            When the file with its password cannot be read.
        """
        url = self.storage.database
        if not url:
            return f"sqlite:///{self.node.data.absolute() / 'index.sqlite'}"
        password = read_secret(
            "storage.database_password_file", self.storage.database_password_file
        ) or (self.storage.database_password.get_secret_value())
        if not password or not url.startswith("postgresql"):
            return url
        return f"{url}{'&' if '?' in url else '?'}password={quote(password, safe='')}"

    @property
    def archive_url(self) -> str:
        """The archive's URL; a folder in the data folder unless set."""
        return self.storage.archive or str(self.node.data.absolute() / "archive")

    @property
    def zone(self) -> tzinfo:
        """The time zone of windows."""
        return ZoneInfo(self.node.timezone) if self.node.timezone else get_localzone()

    @property
    def scratch(self) -> Path:
        """Temporary files of workers."""
        return self.node.data.absolute() / "scratch"


def read_secret(setting: str, file: str) -> str:
    """The content of a file that a setting names, without the end of its line; nothing where none is named.

    Raises
    ------
    ConfigError
        When it cannot be read.
    """
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n") if file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{setting}: {file} cannot be read: {error}") from error


def withhold_secrets(environment: MutableMapping[str, str]) -> None:
    """Take out what has been read: no process that is started from here on inherits it."""
    for name in list(environment):
        if name == "PGPASSWORD" or (name.startswith(ENVIRONMENT_PREFIX) and "__" in name):
            del environment[name]


def without_passwords(value: Any) -> Any:
    """Settings that may be shown: in every URL, a password reaches to the `@`, whatever it holds, or is an option."""
    if isinstance(value, dict):
        return {key: without_passwords(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_passwords(item) for item in value]
    if not isinstance(value, str):
        return value
    shown = re.sub(r"(://[^:@/]*):[^@]*@", r"\1:***@", value)
    return re.sub(r"([?&](?:ssl)?(?:password|secret|token)=)[^&]*", r"\1***", shown)


def load(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """Read `path` (else `config.toml` if there is one, else defaults), then the environment over it.

    Relative folders are relative to the file.

    Raises
    ------
    ConfigError
        Naming the file and the key.
    """
    source = path or (DEFAULT_PATH if DEFAULT_PATH.exists() else None)
    raw: dict[str, Any] = {}
    if source is not None:
        try:
            raw = tomllib.loads(source.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{source}: {error}") from error
    given = os.environ if environment is None else environment
    for keys, value in _from_environment(given):
        section = raw.setdefault(keys[0], {})
        if isinstance(section, dict):
            section[keys[1]] = value
    if password := given.get("PGPASSWORD"):
        storage = raw.setdefault("storage", {})
        if isinstance(storage, dict):
            storage.setdefault("database_password", password)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{source or 'environment'}: {_explain(error)}") from error
    config = config if source is None else _anchored(config, source.absolute().parent)
    _check_settings(config, source)
    return config


def example() -> str:
    """`config.example.toml`: every setting, its default, a sentence."""
    lines = [
        "# Every setting of OsteoNode with its default. Copy to config.toml and keep what you change.",
        f"# Each can be set by the environment as well: {ENVIRONMENT_PREFIX}NODE__AE_TITLE=OSTEONODE",
    ]
    for name, field in Config.model_fields.items():
        section = cast(type[BaseModel], field.annotation)
        lines += ["", f"# {section.__doc__}", f"[{name}]"]
        for key, setting in section.model_fields.items():
            lines += [f"# {setting.description}", *_example_of(key, setting.default)]
    return "\n".join(lines) + "\n"


_TABLES = {
    "callers": CALLERS_EXAMPLE,
    "settings": SETTINGS_EXAMPLE,
    "profiles": PROFILES_EXAMPLE,
    "worklists": WORKLISTS_EXAMPLE,
    "web": WEB_EXAMPLE,
}


def _example_of(key: str, default: Any) -> list[str]:
    if key in _TABLES:
        # An empty table written out could not be added to.
        return _TABLES[key].splitlines()
    return [f"{key} = {_toml(default)}"]


def _check_settings(config: Config, source: Path | None) -> None:
    """Hold what names pipelines against those installed; where nothing does, no manifest is read."""
    if not (config.pipelines.settings or config.compute.limits):
        return
    # Not at the top: manifests are read for nothing else here, and the CLI answers at once without.
    from node.sites import check_settings  # noqa: PLC0415
    from pipelines.registry import find_pipelines  # noqa: PLC0415

    registry = find_pipelines(config.pipelines.folders)
    for name in config.compute.limits:
        if name not in registry.manifests:
            raise ConfigError(
                f"{source or 'environment'}: compute.limits: no pipeline {name!r} is installed; there is "
                f"{', '.join(sorted(registry.manifests)) or 'none'}."
            )
    try:
        check_settings(config.pipelines.settings, registry)
    except ConfigError as error:
        raise ConfigError(f"{source or 'environment'}: {error}") from error


def _anchored(config: Config, folder: Path) -> Config:
    node = config.node.model_copy(update={"data": folder / config.node.data})
    own = tuple(folder / one for one in config.pipelines.folders)
    pipelines = config.pipelines.model_copy(update={"folders": own})
    ups = UpsSection(
        worklists={name: _web_at(one, folder) for name, one in config.ups.worklists.items()}
    )
    web = {name: _web_at(one, folder) for name, one in config.delivery.web.items()}
    delivery = config.delivery.model_copy(update={"web": web})
    files = ("certificate", "key", "key_password_file", "authorities", "crl_file")
    named = {name: getattr(config.tls, name) for name in files}
    tls = config.tls.model_copy(
        update={name: str(folder / path) for name, path in named.items() if path}
    )
    update: dict[str, Any] = {
        "node": node,
        "tls": tls,
        "pipelines": pipelines,
        "ups": ups,
        "delivery": delivery,
    }
    if file := config.storage.database_password_file:
        update["storage"] = config.storage.model_copy(
            update={"database_password_file": str(folder / file)}
        )
    return config.model_copy(update=update)


def _web_at(setting: _Web, folder: Path) -> _Web:
    files = ("token_file", "password_file", "certificate", "key", "ca")
    named = {name: getattr(setting, name) for name in files}
    return setting.model_copy(
        update={name: folder / path for name, path in named.items() if path is not None}
    )


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[tuple[str, str], Any]]:
    for name, value in sorted(environment.items()):
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
            yield (section, key), value if _is_text(section, key) else _parse(value)


def _is_text(section: str, key: str) -> bool:
    """A serial number of digits stays a text."""
    if (field := Config.model_fields.get(section)) is None:
        return False
    setting = cast(type[BaseModel], field.annotation).model_fields.get(key)
    return setting is not None and isinstance(setting.default, str | Path | SecretStr)


def _parse(value: str) -> Any:
    """A JSON value where it is one (`["A", "B"]`, `true`), else the text."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _toml(value: Any) -> str:
    if isinstance(value, SecretStr):
        return '""'
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def _explain(error: ValidationError) -> str:
    places = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            places.append(f"{key}: no such setting (config.example.toml lists them all)")
        elif item["type"] == "tuple_type":
            places.append(
                f'{key}: takes a list, as ["..."] (of tables: a heading in [[...]]), not {item["input"]!r}'
            )
        elif key.startswith(("storage.", "delivery.web", "ups.")):
            # What is wrong may be, or hold, a password.
            places.append(f"{key}: {item['msg']}")
        else:
            places.append(f"{key}: {item['msg']}, not {without_passwords(item['input'])!r}")
    return "; ".join(places)
