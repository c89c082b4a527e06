"""THE STUDY BEFORE, wanted of an archive to compare another with.

    wait      a rule that compares holds its run back                                       (node.prior_waiting)
    fetch     the patient's last study before is found, its series fetched (node.prior_asking)   -> FETCHED
    follow    the rule's pipeline runs on it, as on any; its result stays here, nobody gets it   -> SETTLED

A study that came this way is there for comparison alone: rules start nothing on it. The search is in the index, each
step may be repeated, and whatever goes wrong ends with a reason, which the report of the waiting study says.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from node import selection
from node.claims import LEASE_S, renewed
from node.errors import DeliveryError
from node.fetching import Shelf
from node.lifecycle import Parts
from node.planning import Planner
from node.prior_asking import RemoteArchive
from node.routing import wanted_roles
from pipelines.errors import ManifestError
from storage.errors import NotFound
from storage.index import destinations, prior_searches, rules, studies, workitems
from storage.model import PriorSearch, PriorSearchState, Rule, WorkitemState

#: Seconds between two looks at the run on a study before; and until an archive is asked again, doubled each time.
FOLLOW_S, RETRY_S = 1.0, 5.0

log = structlog.get_logger(__name__)


def seek(parts: Parts, *, now: datetime) -> bool:
    """Bring one search a step further; False when none is due."""
    search = prior_searches.claim_due(parts.index, owner=parts.owner, now=now, lease_s=LEASE_S)
    if search is None:
        return False

    def renew(at: datetime) -> bool:
        return prior_searches.renew(parts.index, search, owner=parts.owner, now=at, lease_s=LEASE_S)

    with renewed(renew, lost=lambda: None, about="prior"):
        try:
            _advance(parts, search, now)
        except DeliveryError as error:
            wait = timedelta(seconds=RETRY_S * 2.0 ** min(search.attempts, 10))
            log.warning("prior_not_fetched", study=search.study_instance_uid, reason=str(error))
            again_at = min(search.deadline, now + wait)
            prior_searches.put_off(parts.index, search, again_at=again_at, reason=str(error))
    return True


def _advance(parts: Parts, search: PriorSearch, now: datetime) -> None:
    if now >= search.deadline:
        late = search.reason or "The study before was not analysed in time."
        _settle(parts, search, now, late)
    elif search.state is PriorSearchState.FETCHED:
        _follow(parts, search, now)
    else:
        try:
            _fetch(parts, search, rules.get(parts.index, search.rule), now)
        except (NotFound, ManifestError) as error:
            _settle(parts, search, now, str(error))


def _settle(parts: Parts, search: PriorSearch, now: datetime, reason: str = "") -> None:
    log.info("prior_settled", study=search.study_instance_uid, reason=reason or "there is one")
    prior_searches.settle(parts.index, search, reason=reason, now=now)


# -- fetch ----------------------------------------------------------------------------------------


def _fetch(parts: Parts, search: PriorSearch, rule: Rule, now: datetime) -> None:
    manifest = parts.registry.get(rule.pipeline).manifest
    uid = search.study_instance_uid
    archive = RemoteArchive(
        config=parts.config,
        source=destinations.get(parts.index, search.destination),
        study=studies.get(parts.index, uid),
        series=[one for one in studies.series_of(parts.index, uid) if not one.own],
        within_days=search.within_days,
    )
    found, series = archive.look(
        [manifest.inputs[role].modality for role in wanted_roles(rule, manifest)]
    )
    if not found:
        _settle(parts, search, now, f"{search.destination} has none that {rule.pipeline} takes.")
        return
    prior_searches.choose(parts.index, search, found)
    shelf = Shelf(config=parts.config, archive=parts.archive, index=parts.index)
    for one in series:
        archive.bring(found, one, shelf)
    _analyse(parts, search, found, rule, now)


def _analyse(parts: Parts, search: PriorSearch, found: str, rule: Rule, now: datetime) -> None:
    """Schedule the rule's pipeline on the study before: nobody gets the result, and it is compared with nothing."""
    alone = replace(rule, destinations=(), report_refusals=False, prior="", prior_from="", wait_s=0)
    try:
        study = studies.get(parts.index, found)
    except NotFound:
        raise DeliveryError(f"{search.destination} sent nothing of the study before.") from None
    is_ours_too = not prior_searches.is_fetched(parts.index, found)
    if is_ours_too and study.revision > study.evaluated_revision:
        # Rules have the first word on a study that was sent to us: what they schedule goes to their destinations.
        again_at = now + timedelta(seconds=FOLLOW_S)
        prior_searches.put_off(parts.index, search, again_at=again_at)
        return
    manifest = parts.registry.get(rule.pipeline).manifest
    selections = selection.select(alone, studies.series_of(parts.index, found), manifest, now=now)
    planner = Planner(config=parts.config, index=parts.index, registry=parts.registry)
    planned = [planner.plan(study, alone, one.inputs, now) for one in selections if one.inputs]
    if planned:
        prior_searches.schedule(parts.index, search, planned, now=now)
        return
    reasons = dict.fromkeys(decision.reason for one in selections for decision in one.decisions)
    _settle(parts, search, now, f"The study before does not fit. {' '.join(reasons)}")


# -- follow ---------------------------------------------------------------------------------------


def _follow(parts: Parts, search: PriorSearch, now: datetime) -> None:
    made = [workitems.get(parts.index, uid) for uid in search.workitem_uids]
    states = {one.state for one in made}
    if states & {WorkitemState.SCHEDULED, WorkitemState.IN_PROGRESS}:
        again_at = now + timedelta(seconds=FOLLOW_S)
        prior_searches.put_off(parts.index, search, again_at=again_at)
    elif WorkitemState.COMPLETED in states:
        _settle(parts, search, now)
    else:
        _settle(parts, search, now, f"The study before has no result: {made[0].reason}")
