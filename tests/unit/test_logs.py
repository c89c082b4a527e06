"""Log lines never name a patient, whatever fails."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from node import logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The root logger and structlog as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
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
