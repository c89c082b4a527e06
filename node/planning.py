"""A rule and the inputs it selected -> the workitem that shall run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from node.config import Config
from node.sites import site_parameters
from pipelines.registry import Registry
from pipelines.uids import derive_workitem_uid
from storage.index import Index, findings, instances, prior_searches, priors
from storage.model import Prior, Rule, Series, Study, Workitem, WorkitemInput, WorkitemState


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """What a plan is made with."""

    config: Config
    index: Index
    registry: Registry
    #: Instances that a plan may take; empty: all that are held of a series.
    only: frozenset[str] = frozenset()

    def plan(
        self, study: Study, rule: Rule, inputs: Mapping[str, Series], now: datetime
    ) -> Workitem:
        """The workitem of one rule on one set of inputs (role -> series)."""
        manifest = self.registry.manifests[rule.pipeline]
        held = tuple(self._input(role, series) for role, series in inputs.items())
        site = site_parameters(self.config.pipelines.settings, manifest.name, inputs.values())
        parameters = manifest.merge({**site, **rule.parameters})
        return Workitem(
            workitem_uid=derive_workitem_uid(
                self.config.node.uid_root,
                pipeline=manifest.name,
                version=manifest.version,
                parameters=parameters,
                sop_instance_uids=[uid for one in held for uid in one.sop_instance_uids],
            ),
            study_instance_uid=study.study_instance_uid,
            study_revision=study.revision,
            rule=rule.name,
            pipeline=manifest.name,
            pipeline_version=manifest.version,
            parameters=parameters,
            inputs=held,
            destinations=rule.destinations,
            priority=rule.priority,
            state=WorkitemState.SCHEDULED,
            scheduled_at=now,
            report_refusals=rule.report_refusals,
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

    def _input(self, role: str, series: Series) -> WorkitemInput:
        # Of this study: broken senders put one Series Instance UID into two.
        held = instances.of_series(
            self.index,
            series.series_instance_uid,
            study_instance_uid=series.study_instance_uid,
        )
        return WorkitemInput(
            role=role,
            series_instance_uid=series.series_instance_uid,
            sop_instance_uids=tuple(
                sorted(
                    instance.sop_instance_uid
                    for instance in held
                    if not self.only or instance.sop_instance_uid in self.only
                )
            ),
        )


def merge(first: Workitem, second: Workitem) -> Workitem:
    """Two rules want the same run: it happens once, and goes to the destinations of both."""
    return replace(
        first,
        destinations=tuple(dict.fromkeys(first.destinations + second.destinations)),
        priority=max(first.priority, second.priority),
        report_refusals=first.report_refusals or second.report_refusals,
        prior=first.prior or second.prior,
    )
