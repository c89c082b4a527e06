"""Log lines: structured, in UTC, on standard error. They name UIDs and AE titles, never a patient.

A peer chooses some of what they say (AE titles, UIDs): control characters are written as escapes, so that nobody makes
a line of his own or commands the terminal that shows it, and long values are cut.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Literal, TextIO

import structlog

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

#: Longer values are cut: a peer may name megabytes.
_LONGEST_VALUE = 1024
_LONGEST_TRACEBACK = 16384


def configure(
    level: Literal["debug", "info", "warning", "error"], style: Literal["text", "json"]
) -> None:
    """Send structlog's and the libraries' lines to standard error, in one form."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _make_printable,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    # Dask tells at `info` what only its authors want.
    for library in ("distributed", "apscheduler", "asyncio", "alembic", "fsspec"):
        logging.getLogger(library).setLevel(max(logging.WARNING, _LEVELS[level]))
    # Whole URLs, which may hold a password, and headers of every answer.
    for library in ("httpx", "httpcore", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)
    quiet_dicom_libraries()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def quiet_dicom_libraries() -> None:
    """Keep values of headers, which pydicom and pynetdicom repeat when they complain of them, out of standard error.

    pydicom warns and logs the same sentence; pynetdicom logs what it was sent, with a traceback. What was wrong with a
    data set or a PDU is said in a line of our own, where it is refused. Of a warning, kind and place remain.
    """
    for library in ("pydicom", "pynetdicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    warnings.showwarning = _show_warning


def _show_warning(  # noqa: PLR0913, PLR0917 - as `warnings.showwarning` has them
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    where = "/".join(Path(filename).parts[-2:])
    logging.getLogger("warnings").warning("%s at %s:%d", category.__name__, where, lineno)


def _make_printable(
    logger: object, method: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {key: _printable(key, value) for key, value in line.items()}


def _printable(key: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    is_traceback = key == "exception"
    longest = _LONGEST_TRACEBACK if is_traceback else _LONGEST_VALUE
    if len(value) > longest:
        value = f"{value[:longest]}... ({len(value)} characters)"
    if value.isprintable():
        return value
    # A traceback has lines; indented, none of them looks like one of the log.
    lines = value.split("\n") if is_traceback else [value]
    return "\n    ".join(
        "".join(c if c.isprintable() else _escape(c) for c in one) for one in lines
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
