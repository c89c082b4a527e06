"""Settings: the example is the code, and a mistake is named by file and key."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from node import config
from node.config import Config
from node.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# -- defaults -------------------------------------------------------------------------------------


def test_the_example_is_the_code() -> None:
    assert (ROOT / "config.example.toml").read_text(encoding="utf-8") == config.example()


def test_the_example_holds_every_setting_at_its_default() -> None:
    written = tomllib.loads(config.example())

    assert Config.model_validate(written) == Config()
    settings = {name: set(section) for name, section in Config().model_dump().items()}
    # Tables of tables are shown as a comment: written out empty, nothing could be added to them.
    settings["pipelines"].remove("settings")
    settings["evidence"].remove("profiles")
    settings["ups"].remove("worklists")
    settings["receive"].remove("callers")
    settings["delivery"].remove("web")
    assert {name: set(section) for name, section in written.items()} == settings


def test_the_example_of_callers_is_good(path: Path) -> None:
    text = "\n".join(line.removeprefix("# ") for line in config.CALLERS_EXAMPLE.splitlines())
    assert config.CALLERS_EXAMPLE in config.example()
    path.write_text(text, encoding="utf-8")
    caller = config.load(path, {}).receive.callers["CT_ONE"]
    assert caller.may == ("echo", "store")
    assert [str(network) for network in caller.networks] == ["10.1.2.0/24"]


def test_the_example_of_settings_by_scanner_is_good(path: Path) -> None:
    text = "\n".join(line.removeprefix("# ") for line in config.SETTINGS_EXAMPLE.splitlines())
    assert config.SETTINGS_EXAMPLE in config.example()
    read = config.load(_write(path, text), {})
    (entry,) = read.pipelines.settings["qct_femur"]
    assert entry.where == ("StationName = CT01", "KVP = 120")
    assert entry.parameters["calibration_slope"] == 0.82


def test_the_example_of_worklists_is_good(path: Path) -> None:
    text = "\n".join(line.removeprefix("# ") for line in config.WORKLISTS_EXAMPLE.splitlines())
    assert config.WORKLISTS_EXAMPLE in config.example()
    read = config.load(_write(path, text), {}).ups.worklists["pacs"]
    assert read.token_file == path.parent / "pacs.token"
    assert [(one.rule, one.pipeline, one.to) for one in read.work] == [
        ("bones", "", ()),
        ("", "qct_femur", ("PACS",)),
    ]
    default = type(read)(url=read.url, work=read.work)
    shown = {"poll_s", "timeout_s", "input_wait_s", "at_once", "retrieve_url", "station"}
    assert read.model_dump(include=shown) == default.model_dump(include=shown)


@pytest.mark.parametrize(
    "work",
    [
        'code = "A^B"',
        'code = "A^B"\nrule = "bones"\npipeline = "ct_skeleton"',
        'code = "A^B"\npipeline = "ct_skeleton"',
        'code = "A"\nrule = "bones"',
    ],
)
def test_work_names_a_code_and_a_rule_or_a_pipeline_with_destinations(
    path: Path, work: str
) -> None:
    text = f'[ups.worklists.pacs]\nurl = "http://pacs"\n[[ups.worklists.pacs.work]]\n{work}\n'
    with pytest.raises(ConfigError, match=r"ups\.worklists\.pacs\.work\.0"):
        config.load(_write(path, text), {})


def test_the_example_of_profiles_is_good(path: Path) -> None:
    text = "\n".join(line.removeprefix("# ") for line in config.PROFILES_EXAMPLE.splitlines())
    assert config.PROFILES_EXAMPLE in config.example()
    known = config.load(_write(path, text), {}).evidence.known_profiles
    assert known["archive"].segmentation == "labelmap"
    assert known["legacy"].pdf


def test_a_profile_of_ones_own_counts_over_one_that_ships(path: Path) -> None:
    read = config.load(_write(path, "[evidence.profiles.ohif]\npdf = true"), {})
    assert read.evidence.known_profiles["ohif"].pdf
    assert not read.evidence.known_profiles["ohif"].contours


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("compression = 'jpeg-ls'", "jpeg-ls takes no single bits"),
        ("segmentation = 'fractional'", "binary"),
        ("colour = true", r"own\.colour: no such setting"),
    ],
)
def test_a_profile_that_cannot_be_made(path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config.load(_write(path, f"[evidence.profiles.own]\n{text}"), {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[pipelines.settings.qct_femurr]]\nparameters = {a = 1}", r"qct_femurr: .*qct_femur"),
        ("[[pipelines.settings.qct_femur]]\nparameters = {slope = 1}", r"0\.parameters: .*'slope'"),
        (
            "[[pipelines.settings.qct_femur]]\nparameters = {calibration_slope = 'x'}",
            "takes a float",
        ),
        (
            "[[pipelines.settings.qct_femur]]\nwhere = ['Station = 1']\nparameters = {metal_hu = 2}",
            r"0\.where: Clause 'Station = 1'",
        ),
        ("[[pipelines.settings.qct_femur]]\nwhere = []", r"0\.parameters: "),
        ("[[pipelines.settings.qct_femur]]\nparameters = {}", r"0\.parameters: "),
        (
            "[pipelines.settings.qct_femur]\nparameters = {metal_hu = 2.0}",
            r"qct_femur: .*\[\[.*\]\]",
        ),
        (
            "[[pipelines.settings.qct_femur]]\nwhere = 'KVP = 1'\nparameters = {metal_hu = 2.0}",
            r"0\.where: takes a list",
        ),
    ],
)
def test_a_mistake_in_the_settings_of_a_pipeline_is_named(path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=rf"config.toml: pipelines\.settings\.{told}|{told}"):
        config.load(_write(path, text), {})


def test_every_setting_is_explained_by_a_sentence() -> None:
    lines = config.example().splitlines()

    for before, line in itertools.pairwise(lines):
        if "=" in line and not line.startswith("#"):
            assert before.startswith("# "), line
            assert before.endswith("."), before


def test_nothing_at_all_gives_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert config.load(environment={}) == Config()


def test_a_config_toml_here_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "config.toml", "[node]\nport = 11113\n")

    assert config.load(environment={}).node.port == 11113


# -- where things lie -----------------------------------------------------------------------------


def test_everything_lies_under_the_data_folder_beside_the_file(path: Path) -> None:
    read = config.load(_write(path, '[node]\ndata = "held"\n'), {})

    held = path.parent / "held"
    assert read.node.data == held
    assert read.database_url == f"sqlite:///{held / 'index.sqlite'}"
    assert read.archive_url == str(held / "archive")
    assert read.scratch == held / "scratch"


def test_pipelines_of_ones_own_are_looked_for_beside_the_file(path: Path) -> None:
    read = config.load(_write(path, '[pipelines]\nfolders = ["ours", "/opt/theirs"]\n'), {})

    assert read.pipelines.folders == (path.parent / "ours", Path("/opt/theirs"))


def test_an_absolute_data_folder_stays(path: Path) -> None:
    assert config.load(_write(path, '[node]\ndata = "/var/held"\n'), {}).node.data == Path(
        "/var/held"
    )


def test_a_database_and_an_archive_elsewhere_are_taken(path: Path) -> None:
    text = '[storage]\ndatabase = "postgresql+psycopg://u@h/n"\narchive = "s3://bucket/x"\n'
    read = config.load(_write(path, text), {})

    assert read.database_url == "postgresql+psycopg://u@h/n"
    assert read.archive_url == "s3://bucket/x"


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[node]\nae_titel = 'X'\n", "node.ae_titel: no such setting"),
        ("[nodes]\nport = 1\n", "nodes: no such setting"),
        ("port = 1\n", "port: no such setting"),
        ("[node]\nport = 0\n", "node.port: "),
        ("[node]\nport = 70000\n", "node.port: "),
        ("[node]\nport = 'dicom'\n", "node.port: .*'dicom'"),
        ("[node]\nae_title = ''\n", "node.ae_title: "),
        ("[node]\nae_title = 'SEVENTEEN_LETTERS'\n", "node.ae_title: .*'SEVENTEEN_LETTERS'"),
        (
            "[node]\nae_title = 'A\\\\B'\n".replace("'A", '"A').replace("B'", 'B"'),
            "node.ae_title: ",
        ),
        ("[node]\nae_title = ' LEADING'\n", "node.ae_title: "),
        ("[node]\nuid_root = '1.02.3'\n", "node.uid_root: "),
        ("[node]\nuid_root = '1.2.3.'\n", "node.uid_root: "),
        ("[node]\nlog_level = 'loud'\n", "node.log_level: .*'loud'"),
        ("[node]\nserial_number = ''\n", "node.serial_number: "),
        ("[receive]\ncalling_ae = ['OK', 'SEVENTEEN_LETTERS']\n", "receive.calling_ae.1: "),
        ("[receive]\nprivate_sop_classes = ['one']\n", "receive.private_sop_classes.0: "),
        ("[receive]\nmax_pdu = 100\n", "receive.max_pdu: "),
        ("[receive]\nmax_associations = 0\n", "receive.max_associations: "),
        ("[routing]\nquiet_s = -1\n", "routing.quiet_s: "),
        ("[routing]\nquiet_s = inf\n", "routing.quiet_s: "),
        ("[compute]\nmax_attempts = 0\n", "compute.max_attempts: "),
        ("[compute]\nthreads = 1.5\n", "compute.threads: .*1.5"),
        ("[delivery]\nbackoff_s = 0\n", "delivery.backoff_s: "),
        ("node = 3\n", "node: "),
    ],
)
def test_a_mistake_is_named_by_file_and_key(path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"config.toml: .*{told}"):
        config.load(_write(path, text), {})


def test_several_mistakes_are_told_at_once(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"node\.port: .*; .*routing\.quiet: "):
        config.load(_write(path, "[node]\nport = 0\n[routing]\nquiet = 5\n"), {})


def test_broken_toml_is_named_by_file_and_line(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml: .*line 2"):
        config.load(_write(path, "[node]\nport 1\n"), {})


def test_a_file_that_is_missing_is_named(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml: .*No such file"):
        config.load(path, {})


def test_a_file_that_is_no_text_is_named(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigError, match=r"config\.toml"):
        config.load(path, {})


# -- environment ----------------------------------------------------------------------------------


def test_the_environment_counts_over_the_file(path: Path) -> None:
    _write(path, '[node]\nport = 11113\nae_title = "FILE"\n')

    read = config.load(
        path,
        {
            "OSTEONODE_NODE__PORT": "11114",
            "OSTEONODE_ROUTING__QUIET_S": "2.5",
            "OSTEONODE_RECEIVE__CHECK_CALLED_AE": "false",
            "OSTEONODE_RECEIVE__CALLING_AE": '["CT1", "CT2"]',
            "OSTEONODE_NODE__INSTITUTION": "General Hospital",
            "PATH": "/usr/bin",
            "OSTEONODE_HOME": "not a setting: no section",
        },
    )

    assert (read.node.port, read.node.ae_title) == (11114, "FILE")
    assert read.routing.quiet_s == 2.5
    assert read.receive.check_called_ae is False
    assert read.receive.calling_ae == ("CT1", "CT2")
    assert read.node.institution == "General Hospital"


def test_an_unknown_setting_in_the_environment_is_named(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"node\.prot: no such setting"):
        config.load(_write(path, ""), {"OSTEONODE_NODE__PROT": "1"})


@pytest.mark.parametrize(
    ("name", "text"),
    [("AE_TITLE", "4711"), ("SERIAL_NUMBER", "007"), ("INSTITUTION", "null"), ("UID_ROOT", "2.25")],
)
def test_what_takes_text_gets_the_text_of_the_environment(path: Path, name: str, text: str) -> None:
    read = config.load(_write(path, ""), {f"OSTEONODE_NODE__{name}": text})

    assert getattr(read.node, name.lower()) == text


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().node.port = 1


# -- what runs when -------------------------------------------------------------------------------


def test_points_limits_and_the_time_zone(path: Path) -> None:
    text = (
        '[node]\ntimezone = "Europe/Berlin"\n[routing]\npriorities = { ER_CT = 20, "CT 2" = -5 }\n'
        "[compute]\nlimits = { ct_skeleton = 1 }\n"
    )
    read = config.load(_write(path, text), {})
    assert read.routing.priorities == {"ER_CT": 20, "CT 2": -5}
    assert read.compute.limits == {"ct_skeleton": 1}
    assert read.zone == ZoneInfo("Europe/Berlin")
    assert Config().zone is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[node]\ntimezone = "Mars/Olympus"', "no such time zone"),
        ('[node]\ntimezone = "../etc"', "no such time zone"),
        ("[compute]\nlimits = { ct_skeletton = 1 }", "compute.limits: no pipeline 'ct_skeletton'"),
        ("[compute]\nlimits = { ct_skeleton = -1 }", "compute.limits.ct_skeleton"),
        ("[routing]\npriorities = { ER_CT = 1000 }", "routing.priorities.ER_CT"),
    ],
)
def test_what_runs_when_is_checked(path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml") as refused:
        config.load(_write(path, text), {})
    assert said in str(refused.value)
