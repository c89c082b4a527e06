"""Log lines never name a patient, whatever fails."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from node import logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The root logger and structlog as they were."""
    root = logging.getLogger()
    handlers, level, shown = root.handlers[:], root.level, warnings.showwarning
    yield
    warnings.showwarning = shown
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def fail(patient_id: str) -> None:
    raise RuntimeError(f"a study of {len(patient_id)} letters")


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("name", ["structlog", "library"])
def test_a_traceback_says_where_and_not_what_the_variables_held(
    style: Literal["text", "json"], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", style)
    log = structlog.get_logger("node") if name == "structlog" else logging.getLogger("library")
    patient_id = "^".join(("DOE", "JANE"))
    try:
        fail(patient_id)
    except RuntimeError:
        log.exception("step_failed")
    sys.stderr.flush()
    written = capsys.readouterr().err
    assert "step_failed" in written
    assert "a study of 8 letters" in written
    assert patient_id not in written


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("name", ["structlog", "library"])
def test_a_value_of_a_peer_makes_no_line_and_commands_no_terminal(
    style: Literal["text", "json"], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", style)
    value = "A\x1b[2J\n2026-01-02T00:00:00Z [info     ] forged\x00" + "x" * (1 << 20)
    if name == "structlog":
        structlog.get_logger("node").warning("context_rejected", calling_ae=value)
    else:
        logging.getLogger("library").warning("refused %s", value)
    written = capsys.readouterr().err
    assert len(written.splitlines()) == 1
    assert written.rstrip("\n").isprintable()
    assert len(written) < 5000
    if style == "json":
        assert json.loads(written)


def test_no_line_of_a_traceback_looks_like_one_of_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info", "text")
    try:
        raise ValueError("odd\n2026-01-02T00:00:00Z [info     ] forged \x1b[31m")
    except ValueError:
        structlog.get_logger("node").exception("step_failed")
    written = capsys.readouterr().err
    assert sum(line.startswith("2026-01-02") for line in written.splitlines()) == 0
    assert "\x1b" not in written
    assert "test_logs.py" in written


def test_what_pydicom_says_of_a_value_is_not_repeated(
    capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    logs.configure("info", "text")
    patient_id = "^".join(("DOE", "JANE"))
    logging.getLogger("pydicom").warning("Invalid value for VR DA: %r", patient_id)
    logging.getLogger("pynetdicom.dul").error("Unable to decode %r", patient_id)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # What pytest puts in its place to record them, taken away again.
        logs.quiet_dicom_libraries()
        warnings.warn(f"Invalid value for VR DA: {patient_id}", UserWarning, stacklevel=1)
    written = capsys.readouterr().err
    assert patient_id not in written
    assert "UserWarning at unit/test_logs.py" in written
