"""The inputs of a claimed step: held already or fetched, and then the workitems that run on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from node import query, selection
from node.errors import DeliveryError, WorklistError
from node.fetching import Shelf, fetch_by_wado
from node.lifecycle import Parts
from node.planning import Planner, merge
from node.tls import Dialer
from node.worklist_search import Worklist
from storage.index import destinations, rules, studies
from storage.model import Destination, ProcedureStep, Rule, Series, StepInput, Workitem

#: Priority of workitems of a step that is HIGH.
URGENT = 90


class Unfit(Exception):
    """The step cannot be done; `code` and the message say why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def fetch_missing(parts: Parts, worklist: Worklist, step: ProcedureStep) -> str:
    """Fetch every input that is not held; why one is missing still, or nothing."""
    shelf = Shelf(config=parts.config, archive=parts.archive, index=parts.index)
    try:
        for one in step.inputs:
            if not shelf.holds(one):
                _fetch(parts, worklist, shelf, one)
    except (WorklistError, DeliveryError) as error:
        return str(error)
    missing = sum(not shelf.holds(one) for one in step.inputs)
    return (
        f"{missing} of {len(step.inputs)} inputs: their source does not have them whole."
        if missing
        else ""
    )


def _fetch(parts: Parts, worklist: Worklist, shelf: Shelf, wanted: StepInput) -> None:
    """From where the step says: WADO-RS, or C-MOVE to us from an archive that is a destination; else the worklist's."""
    source = _archive(parts, wanted.retrieve_ae)
    if wanted.retrieve_url or source is None:
        fetch_by_wado(
            shelf,
            wanted,
            name=worklist.name,
            setting=worklist.setting,
            stopping=worklist.stopping,
        )
        return
    query.move(
        source,
        wanted.study_instance_uid,
        wanted.series_instance_uid,
        to=parts.config.node.ae_title,
        calling_ae=parts.config.node.ae_title,
        timeout_s=worklist.setting.timeout_s,
        dialer=Dialer(parts.config.tls),
    )


def _archive(parts: Parts, ae_title: str) -> Destination | None:
    known = destinations.list_destinations(parts.index)
    return next((one for one in known if ae_title and one.called_ae == ae_title), None)


def plan(parts: Parts, worklist: Worklist, step: ProcedureStep, *, now: datetime) -> list[Workitem]:
    """The workitems of a step whose inputs are held.

    Raises
    ------
    Unfit
        When its rule or pipeline is gone, or the inputs do not fit.
    """
    rule = _rule(parts, worklist, step)
    if rule is None or rule.pipeline not in parts.registry.manifests:
        what = "its rule is not there" if rule is None else f"{rule.pipeline} is not installed"
        raise Unfit("pipeline-broken", f"{step.work} cannot be done: {what}.")
    wanted = {one.series_instance_uid for one in step.inputs}
    series = [
        one
        for study in dict.fromkeys(one.study_instance_uid for one in step.inputs)
        for one in studies.series_of(parts.index, study)
        if one.series_instance_uid in wanted
    ]
    # Whoever ordered has named the inputs: there is nothing to wait for.
    selections = selection.select(
        replace(rule, wait_s=0), series, parts.registry.manifests[rule.pipeline], now=now
    )
    planned = _plan(parts, step, rule, [one.inputs for one in selections if one.inputs], now)
    if not planned:
        reasons = [decision.reason for one in selections for decision in one.decisions]
        raise Unfit("input-unfit", " ".join(dict.fromkeys(reasons)))
    return planned


def _plan(
    parts: Parts,
    step: ProcedureStep,
    rule: Rule,
    sets: Sequence[Mapping[str, Series]],
    now: datetime,
) -> list[Workitem]:
    named = [one.sop_instance_uids for one in step.inputs]
    planner = Planner(
        config=parts.config,
        index=parts.index,
        registry=parts.registry,
        # An input without a list means all of its series.
        only=frozenset(uid for uids in named for uid in uids) if all(named) else frozenset(),
    )
    planned: dict[str, Workitem] = {}
    for inputs in sets:
        study = studies.get(parts.index, next(iter(inputs.values())).study_instance_uid)
        one = planner.plan(study, rule, inputs, now)
        uid = one.workitem_uid
        planned[uid] = merge(planned[uid], one) if uid in planned else one
    return list(planned.values())


def _rule(parts: Parts, worklist: Worklist, step: ProcedureStep) -> Rule | None:
    """What the configuration says of the work; a step that is HIGH makes it urgent."""
    work = next((one for one in worklist.setting.work if one.code == step.work), None)
    if work is None:
        return None
    if work.rule:
        known = {one.name: one for one in rules.list_rules(parts.index)}
        rule = known.get(work.rule)
    else:
        rule = Rule(
            name=f"worklist-{worklist.name}",
            pipeline=work.pipeline,
            where=(),
            destinations=work.to,
        )
    if rule is not None and step.priority == "HIGH":
        rule = replace(rule, priority=max(rule.priority, URGENT))
    return rule
