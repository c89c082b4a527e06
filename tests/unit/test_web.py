"""What a DICOMweb service's answer means, and who we are to it; the sending is in tests/integration/test_stow.py."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rows import make_evidence, make_workitem

from node import orders, web
from node.config import Config, WebSetting, load
from node.errors import ConfigError, DeliveryError
from node.scu import Outcome, SendItem
from node.stow import judge, read_response
from node.web import Answer, Service
from storage.model import Destination

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
UID = "1.2.3"
ITEM = SendItem(
    path=Path("x"),
    sop_class_uid="1.2",
    sop_instance_uid=UID,
    transfer_syntax_uid="1.2.840.10008.1.2.1",
)
PACS = Destination(name="PACS", host="pacs", port=443, called_ae="", url="https://pacs/dicom-web")


def answer(status: int, **sequences: tuple[str, int | None]) -> Answer:
    """`stored` and `failed`: SOP Instance UID, and reason."""
    tags = {"stored": ("00081199", "00081196"), "failed": ("00081198", "00081197")}
    content: dict[str, Any] = {}
    for name, (uid, reason) in sequences.items():
        sequence, tag = tags[name]
        item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
        if reason is not None:
            item[tag] = {"vr": "US", "Value": [reason]}
        content[sequence] = {"vr": "SQ", "Value": [item]}
    return Answer(
        status=status,
        media_type="application/dicom+json",
        content=json.dumps(content).encode() if content else b"",
        retry_after_s=7.0,
    )


def judged(given: Answer) -> tuple[Outcome, int | None]:
    one = judge(ITEM, given, read_response(given, of="PACS"))
    assert one.message.endswith((")", "."))
    assert one.retry_after_s == (7.0 if one.outcome is Outcome.RETRY else 0.0)
    return one.outcome, one.status


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (0x0111, Outcome.DELIVERED),
        (0xB007, Outcome.DELIVERED),
        # Azure's, for what it has already.
        (0xB00E, Outcome.DELIVERED),
        (0xA700, Outcome.RETRY),
        (0x0110, Outcome.RETRY),
        (None, Outcome.RETRY),
        (0xA900, Outcome.PERMANENT),
        (0xC000, Outcome.PERMANENT),
        (0xC122, Outcome.PERMANENT),
        (0x0122, Outcome.PERMANENT),
        (0x0124, Outcome.PERMANENT),
    ],
)
@pytest.mark.parametrize("status", [202, 409])
def test_a_failure_reason_is_classed_as_c_store_s_status_is(
    status: int, reason: int | None, outcome: Outcome
) -> None:
    """PS3.18 Table I.2-2; one without a reason is a processing failure."""
    expected = 0x0110 if reason is None else reason
    assert judged(answer(status, failed=(UID, reason))) == (outcome, expected)


@pytest.mark.parametrize("warning", [None, 0xB000, 0xB006, 0xB007])
def test_what_is_stored_is_delivered_whatever_the_warning(warning: int | None) -> None:
    assert judged(answer(202, stored=(UID, warning))) == (Outcome.DELIVERED, warning or 0)


def test_an_instance_that_an_answer_does_not_name_is_not_delivered() -> None:
    assert judged(answer(200, stored=("1.2.4", None))) == (Outcome.RETRY, None)
    both = answer(202, stored=("1.2.4", None), failed=(UID, 0xC000))
    assert judged(both) == (Outcome.PERMANENT, 0xC000)


def test_only_a_200_may_say_nothing() -> None:
    """PS3.18 Table 10.5.3-1: 200, all were stored; 202, some were."""
    assert judged(answer(200)) == (Outcome.DELIVERED, None)
    assert judged(answer(202)) == (Outcome.RETRY, None)


@pytest.mark.parametrize(
    "content",
    [
        b"<html>log in</html>",
        b"[]",
        b"3",
        b'{"error": "no"}',
        b'{"00081199": {"vr": "SQ", "Value": [{}]}}',
        b'{"00081199": {"vr": "SQ", "Value": 7}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_page_is_no_response(content: bytes) -> None:
    given = replace(answer(200), content=content, media_type="text/html")
    with pytest.raises(DeliveryError, match=r"no Store Instances Response \(text/html\)") as caught:
        read_response(given, of="PACS")
    assert not caught.value.permanent


# -- HTTP statuses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "about_us", "permanent", "advice"),
    [
        (301, True, False, "destinations edit PACS --web"),
        (400, False, True, ""),
        (401, True, False, "under [delivery.web.PACS]"),
        (403, True, True, "its administrator must allow"),
        (404, True, False, "destinations edit PACS --web"),
        (405, True, True, "destinations edit PACS --web"),
        (409, False, True, ""),
        (413, False, True, "its administrator must raise the size"),
        (415, False, True, "transfer syntax"),
        (429, True, False, ""),
        (500, True, False, ""),
        (503, True, False, ""),
        (507, True, False, ""),
    ],
)
def test_a_refusal_says_who_must_act(
    status: int, about_us: bool, permanent: bool, advice: str
) -> None:
    with Service(PACS, Config()) as service:
        refusal = service.refusal(replace(answer(status), status=status), "STOW-RS")
    assert web.is_about_us(status) is about_us
    assert refusal.permanent is permanent
    assert refusal.retry_after_s == 7.0
    assert f"PACS (https://pacs/dicom-web) answers STOW-RS with HTTP {status} " in str(refusal)
    assert advice in str(refusal)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("99999999999999999999", 86_400),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("Mon, 01 Mar 2027 12:00:00 GMT", 86_400),
        ("", 0),
        ("soon", 0),
        ("-5", 0),
        ("²", 0),
    ],
)
def test_retry_after_in_both_its_forms(value: str, seconds: float) -> None:
    """RFC 9110 10.2.3; a day at most."""
    assert web.read_retry_after(value, NOON) == seconds


# -- where it is, who we are ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://pacs.example.org/dicom-web/", ("https://pacs.example.org/dicom-web", 443)),
        ("https://pacs.example.org:8443", ("https://pacs.example.org:8443", 8443)),
        ("http://127.0.0.1:8042/dicom-web", ("http://127.0.0.1:8042/dicom-web", 8042)),
        ("http://localhost/x", ("http://localhost/x", 80)),
    ],
)
def test_a_url_is_read(url: str, expected: tuple[str, int]) -> None:
    read, _, port = web.read_url(url)
    assert (read, port) == expected


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://pacs.example.org/dicom-web", "clear text"),
        ("https://me:kite-7731@pacs/dicom-web", r"\[delivery.web.NAME\]"),
        ("https://pacs/dicom-web?token=kite-7731", r"\[delivery.web.NAME\]"),
        ("pacs.example.org", "no URL"),
        ("ftp://pacs/x", "no URL"),
        ("https:///x", "no URL"),
        ("https://pacs/a b", "no URL"),
        ("https://pacs:99999/", "cannot be read"),
    ],
)
def test_a_url_that_will_not_do_is_told_and_not_repeated(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        web.read_url(url)
    assert "kite-7731" not in str(caught.value)


def test_clear_text_is_for_those_who_say_so() -> None:
    assert web.read_url("http://pacs/x", plain=True) == ("http://pacs/x", "pacs", 80)


def test_a_credential_is_not_sent_in_clear_text() -> None:
    config = Config.model_validate({"delivery": {"web": {"PACS": {"token": "kite-7731"}}}})
    plain = replace(PACS, url="http://pacs/dicom-web")
    with pytest.raises(DeliveryError, match="not sent over http") as caught:
        Service(plain, config)
    assert "kite-7731" not in str(caught.value)
    with Service(plain, Config()):
        pass


def test_a_credential_comes_from_file_or_setting(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("kite-7731\n", encoding="utf-8")
    assert web.authorization(WebSetting(), where="w") == {}
    for setting in (
        WebSetting(token_file=file),
        WebSetting.model_validate({"token": "kite-7731"}),
    ):
        assert web.authorization(setting, where="w") == {"Authorization": "Bearer kite-7731"}
    for setting in (
        WebSetting(user="me", password_file=file),
        WebSetting.model_validate({"user": "me", "password": "kite-7731"}),
    ):
        kind, _, pair = web.authorization(setting, where="w")["Authorization"].partition(" ")
        assert (kind, b64decode(pair)) == ("Basic", b"me:kite-7731")


@pytest.mark.parametrize("content", ["", "two words", "tök-7731", "kite\nX-Evil: 1"])
def test_a_file_that_holds_no_token_is_named_without_what_it_holds(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "secret"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"delivery\.web\.PACS") as caught:
        web.authorization(WebSetting(token_file=file), where="delivery.web.PACS")
    assert not content or content not in str(caught.value)


@pytest.mark.parametrize(
    "given", [{"token": "x", "user": "me"}, {"password": "x"}, {"key": "x"}, {"user": "a:b"}]
)
def test_credentials_that_do_not_go_together_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        WebSetting.model_validate(given)


def test_files_lie_beside_the_configuration_and_secrets_may_come_by_the_environment(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[delivery.web.PACS]\ntoken_file = "pacs.token"\n', encoding="utf-8")
    assert load(path, {}).delivery.web["PACS"].token_file == tmp_path / "pacs.token"
    given = {"OSTEONODE_DELIVERY__WEB": '{"PACS": {"token": "kite-7731"}}'}
    setting = load(None, given).delivery.web["PACS"]
    assert setting.token.get_secret_value() == "kite-7731"
    with pytest.raises(ConfigError, match=r"delivery\.web\.PACS") as caught:
        load(None, {"OSTEONODE_DELIVERY__WEB": '{"PACS": {"token": ["kite-7731"]}}'})
    assert "kite-7731" not in str(caught.value)


def test_a_worklist_is_told_where_the_web_has_the_results() -> None:
    """PS3.3 Table 10-3b: WADO-RS Retrieval for a DICOMweb service, DICOM Retrieval for a remote AE."""
    one = make_evidence(make_workitem(1), "SEG")
    ds = orders.performed(
        [(one, PACS.url), (one, "PACS_AE")],
        work="A^B",
        station="OSTEONODE",
        serial_number="1",
        started_at=NOON,
        ended_at=NOON,
    )
    outputs = ds.UnifiedProcedureStepPerformedProcedureSequence[0].OutputInformationSequence
    by_ae, by_web = sorted(outputs, key=lambda item: "WADORSRetrievalSequence" in item)
    assert by_ae.DICOMRetrievalSequence[0].RetrieveAETitle == "PACS_AE"
    assert by_web.WADORSRetrievalSequence[0].RetrieveURL == (
        f"https://pacs/dicom-web/studies/{one.study_instance_uid}/series/{one.series_instance_uid}"
    )
    assert "DICOMRetrievalSequence" not in by_web
