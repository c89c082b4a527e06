"""A rule and the inputs it selected -> the workitem that shall run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo

from node.config import Config
from node.sites import site_parameters
from node.urgency import Urgency, assess
from node.windows import parse_window
from pipelines.registry import Registry
from pipelines.uids import derive_workitem_uid, derive_workitem_uid_after
from storage.index import (
    Index,
    findings,
    instances,
    prior_searches,
    priors,
    revisions,
    turns,
)
from storage.model import (
    Instance,
    Prior,
    Rule,
    Series,
    Study,
    VerdictReason,
    Workitem,
    WorkitemInput,
    WorkitemState,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """What a plan is made with."""

    config: Config
    index: Index
    registry: Registry
    #: Instances that a plan may take; empty: all that are held of a series.
    only: frozenset[str] = frozenset()

    def plan(
        self,
        study: Study,
        rule: Rule,
        inputs: Mapping[str, Series],
        now: datetime,
        *,
        lacks: Sequence[VerdictReason] = (),
    ) -> Workitem:
        """The workitem of one rule on one set of inputs (role -> series)."""
        manifest = self.registry.manifests[rule.pipeline]
        urgency = assess(rule, inputs.values(), self.config.routing.priorities)
        window = _window_of(rule, urgency)
        inputs_held = {role: self._instances(series) for role, series in inputs.items()}
        held = tuple(
            WorkitemInput(
                role=role,
                series_instance_uid=inputs[role].series_instance_uid,
                sop_instance_uids=tuple(sorted(one.sop_instance_uid for one in found)),
            )
            for role, found in inputs_held.items()
        )
        contents = [_content(one) for found in inputs_held.values() for one in found]
        site = site_parameters(self.config.pipelines.settings, manifest.name, inputs.values())
        parameters = manifest.merge({**site, **rule.parameters})
        uid = derive_workitem_uid(
            self.config.node.uid_root,
            pipeline=manifest.name,
            version=manifest.version,
            # On what has no gap it is another analysis than the one that was refused for it.
            parameters={**parameters, **({"allow-gaps": True} if lacks else {})},
            sop_instance_uids=contents,
        )
        return Workitem(
            workitem_uid=self._that_counts(uid),
            study_instance_uid=study.study_instance_uid,
            study_revision=study.revision,
            rule=rule.name,
            pipeline=manifest.name,
            pipeline_version=manifest.version,
            parameters=parameters,
            inputs=held,
            destinations=rule.destinations,
            priority=urgency.priority,
            priority_reasons=urgency.reasons,
            window=window,
            not_before=_opens_at(window, now, self.config.zone),
            state=WorkitemState.SCHEDULED,
            scheduled_at=now,
            report_refusals=rule.report_refusals,
            lacks=tuple((one.code, one.sentence) for one in lacks),
            known_findings=findings.known(
                self.index, study_instance_uid=study.study_instance_uid, pipeline=manifest.name
            ),
            prior=self._prior(study, rule) if rule.prior else None,
        )

    def _prior(self, study: Study, rule: Rule) -> Prior:
        uid = study.study_instance_uid
        found = priors.latest(
            self.index,
            study_instance_uid=uid,
            pipeline=rule.pipeline,
            within_days=rule.prior_days,
        )
        if found.workitem_uid:
            return found
        why = prior_searches.reason(self.index, study_instance_uid=uid, rule=rule.name)
        return replace(found, reason=why)

    def _instances(self, series: Series) -> list[Instance]:
        """What was acquired, of this study: broken senders put one Series Instance UID into two."""
        held = instances.of_series(
            self.index,
            series.series_instance_uid,
            study_instance_uid=series.study_instance_uid,
        )
        return [
            instance
            for instance in held
            if not instance.own and (not self.only or instance.sop_instance_uid in self.only)
        ]

    def _that_counts(self, base: str) -> str:
        """The UID of a run that is wanted again after another took its place: a rule was changed, and changed back."""
        uid = base
        while (newer := revisions.replacing(self.index, uid)) is not None:
            uid = derive_workitem_uid_after(
                self.config.node.uid_root, workitem_uid=base, after=newer
            )
        return uid


def _content(instance: Instance) -> str:
    """An input, as workitem UIDs derive from it: another content under the same UID is another input."""
    uid = instance.sop_instance_uid
    return f"{uid} {instance.digest}" if instance.replaced else uid


def merge(first: Workitem, second: Workitem) -> Workitem:
    """Two rules want the same run: it happens once, as soon as one allows it, and goes to the destinations of both."""
    urgent = max(first, second, key=lambda workitem: workitem.priority)
    times = [workitem.not_before for workitem in (first, second) if workitem.not_before]
    windows = [workitem.window for workitem in (first, second) if workitem.window]
    return replace(
        first,
        destinations=tuple(dict.fromkeys(first.destinations + second.destinations)),
        priority=urgent.priority,
        priority_reasons=urgent.priority_reasons,
        window=", ".join(dict.fromkeys(windows)) if len(windows) == 2 else None,
        not_before=min(times) if len(times) == 2 else None,
        report_refusals=first.report_refusals or second.report_refusals,
        prior=first.prior or second.prior,
    )


def shut_windows(index: Index, *, now: datetime, zone: tzinfo) -> tuple[str, ...]:
    """Put off what is outside its window until that opens; the windows that are closed now."""
    closed = []
    for text in turns.due_windows(index, now):
        opens = parse_window(text).opens_at(now, zone)
        if opens > now:
            turns.postpone(index, window=text, until=opens)
            closed.append(text)
    return tuple(closed)


def _window_of(rule: Rule, urgency: Urgency) -> str | None:
    window = parse_window(rule.window)
    return rule.window if window.spans and not (window.stat and urgency.is_stat) else None


def _opens_at(window: str | None, now: datetime, zone: tzinfo) -> datetime | None:
    """When a workitem may start; None when at once."""
    if window is None:
        return None
    opens = parse_window(window).opens_at(now, zone)
    return opens if opens > now else None
