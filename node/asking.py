"""Asking the archives that send: how many instances has this study? Beside the loop that evaluates, never in its way.

A study is asked about once after it fell quiet, again after its next instance, and while the archive has less than came
or does not answer, less and less often. What an archive that is dead would have said is not waited for: the quiet time
goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from node import query
from node.config import Config
from node.errors import DeliveryError
from node.tls import Dialer
from storage.errors import NotFound
from storage.index import Index, destinations, wholeness
from storage.index.wholeness import Question
from storage.model import Asked, utcnow

#: Seconds until a question is asked again; doubled with each attempt.
AGAIN_S = 5.0
MOST_S = 600.0

log = structlog.get_logger(__name__)


def due(index: Index, config: Config, *, now: datetime) -> dict[str, list[Question]]:
    """What is to be asked now: destination -> questions, the study that is quiet longest first."""
    settings = config.routing
    if not settings.ask:
        return {}
    found: dict[str, list[Question]] = {}
    for question in wholeness.to_ask(
        index, settings.ask, now=now, quiet_s=min(settings.count_quiet_s, settings.quiet_s)
    ):
        found.setdefault(question.destination, []).append(question)
    return found


def ask(index: Index, config: Config, questions: Sequence[Question]) -> None:
    """Ask one destination, and keep its answers. After one that it owes the others are put off as well."""
    for number, question in enumerate(questions):
        try:
            answer = _ask(index, config, question)
        except (DeliveryError, NotFound) as error:
            for one in questions[number:]:
                _put_off(index, one, str(error))
            log.warning(
                "archive_not_asked",
                destination=question.destination,
                studies=len(questions) - number,
                reason=str(error),
            )
            return
        _keep(index, question, answer)


def _ask(index: Index, config: Config, question: Question) -> Asked:
    return query.count_study(
        destinations.get(index, question.destination),
        question.study.study_instance_uid,
        calling_ae=config.node.ae_title,
        timeout_s=config.routing.ask_timeout_s,
        dialer=Dialer(config.tls),
    )


def _keep(index: Index, question: Question, answer: Asked) -> None:
    study = question.study
    if (answer.instances or sum(answer.by_series.values())) < study.instance_count:
        # It is not done itself.
        answer = replace(answer, attempts=_attempts(question), again_at=_again(question))
    wholeness.record_answer(index, study.study_instance_uid, answer)
    log.info(
        "archive_asked",
        study=study.study_instance_uid,
        destination=question.destination,
        instances=answer.instances,
        held=study.instance_count,
    )


def _put_off(index: Index, question: Question, failure: str) -> None:
    answer = Asked(
        of=question.destination,
        attempts=_attempts(question),
        failure=failure,
        again_at=_again(question),
    )
    wholeness.record_answer(index, question.study.study_instance_uid, answer)


def _attempts(question: Question) -> int:
    """Of this burst of instances: what came since the last question begins anew."""
    asked, study = question.study.asked, question.study
    if asked is None or asked.again_at is None or asked.again_at < study.last_received_at:
        return 1
    return asked.attempts + 1


def _again(question: Question) -> datetime:
    wait = min(MOST_S, AGAIN_S * 2.0 ** (_attempts(question) - 1))
    return utcnow() + timedelta(seconds=wait)
