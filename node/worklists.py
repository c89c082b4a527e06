"""THE LIFE OF A WORKLIST'S STEP: this node as a pull Task Performer (IHE AIW-I, PS3.4 Annex CC).

    look       search what is scheduled for us, write a Transaction UID down       -> CLAIMING
    claim      ask for it under that UID: ours, or another's (LOST)                -> CLAIMED
    gather     make sure that the inputs are held; fetch those that are not        -> PERFORMING
    follow     workitems run, evidence goes out as of any study; then tell outputs -> COMPLETED
    discontinue tell in codes why not                                              -> CANCELED

Each look at a step may be repeated: a claim whose answer was lost is tried by an update under its Transaction UID,
which only its holder may make. What others do to a step (cancel it, end it) is seen when it is looked at. A worklist
that does not answer keeps its own thread waiting and nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import structlog

from node import orders, step_inputs
from node.claims import LEASE_S, renewed
from node.errors import WorklistError
from node.lifecycle import Parts
from node.worklist_search import Worklist, look
from pipelines.evidence.refusal import status_and_reason
from storage.errors import ChangeRefused, NotFound
from storage.index import deliveries, destinations, procedure_steps, workitems
from storage.model import (
    Delivery,
    DeliveryState,
    Evidence,
    ProcedureStep,
    ProcedureStepState,
    Workitem,
    WorkitemState,
)

#: Seconds between two looks at what our own workitems do.
FOLLOW_S = 1.0
#: Most seconds between two attempts; refusals that may be settled by a person are tried so often.
_LONGEST_S, _REFUSALS = 600.0, 8
_DELIVERED = (DeliveryState.SENT, DeliveryState.COMMITTED)

log = structlog.get_logger(__name__)


def attend(parts: Parts, worklist: Worklist, *, now: datetime) -> bool:
    """Look for new steps when it is time, and bring one step further; False when none is due."""
    if worklist.look_again_at is None or now >= worklist.look_again_at:
        worklist.look_again_at = now + timedelta(seconds=worklist.setting.poll_s)
        look(parts, worklist, now=now)
    step = procedure_steps.claim_due(
        parts.index, worklist=worklist.name, owner=parts.owner, now=now, lease_s=LEASE_S
    )
    if step is None:
        return False

    def renew(at: datetime) -> bool:
        return procedure_steps.renew(parts.index, step, owner=parts.owner, now=at, lease_s=LEASE_S)

    with renewed(renew, lost=lambda: None, about=step.procedure_step_uid):
        try:
            _STEPS[step.state](parts, worklist, step, now)
        except WorklistError as error:
            _put_off(parts, worklist, step, error, now)
    return True


# -- claim ----------------------------------------------------------------------------------------


def _claim(parts: Parts, worklist: Worklist, step: ProcedureStep, now: datetime) -> None:
    uid, mine = step.procedure_step_uid, step.transaction_uid
    try:
        worklist.client.change_state(uid, "IN PROGRESS", transaction_uid=mine)
    except WorklistError as error:
        # PS3.18 11.7.3: it is not SCHEDULED any more. Another's, unless an answer to us was lost on its way.
        if error.code != "conflict":
            raise
    worklist.client.update(
        uid, orders.progress(0, "Claimed; inputs are looked for."), transaction_uid=mine
    )
    _change(parts, step, now, state=ProcedureStepState.CLAIMED)


# -- gather ---------------------------------------------------------------------------------------


def _gather(parts: Parts, worklist: Worklist, step: ProcedureStep, now: datetime) -> None:
    if _ended_by_others(parts, worklist, step, now):
        return
    missing = step_inputs.fetch_missing(parts, worklist, step)
    if missing:
        _wait_for_inputs(parts, worklist, step, missing, now)
        return
    try:
        planned = step_inputs.plan(parts, worklist, step, now=now)
    except step_inputs.Unfit as verdict:
        _give_up(parts, step, verdict.code, str(verdict), now)
    else:
        procedure_steps.schedule(parts.index, step, planned, now=now)


def _wait_for_inputs(
    parts: Parts, worklist: Worklist, step: ProcedureStep, reason: str, now: datetime
) -> None:
    deadline = step.claimed_at + timedelta(seconds=worklist.setting.input_wait_s)
    if now >= deadline:
        _give_up(parts, step, "input-absent", reason, now)
        return
    log.warning("inputs_missing", step=step.procedure_step_uid, reason=reason)
    procedure_steps.change(
        parts.index,
        step,
        now=now,
        again_at=min(deadline, now + timedelta(seconds=_backoff(worklist, step))),
        attempts=step.attempts + 1,
        reason=("input-absent", reason),
    )


# -- follow ---------------------------------------------------------------------------------------


def _follow(parts: Parts, worklist: Worklist, step: ProcedureStep, now: datetime) -> None:
    done = [workitems.get(parts.index, uid) for uid in step.workitems]
    owed = [
        one
        for uid in step.workitems
        for one in deliveries.list_deliveries(parts.index, workitem=uid, limit=10_000)
    ]
    failed = next((one for one in done if one.state is WorkitemState.CANCELED), None)
    is_over = all(one.state is WorkitemState.COMPLETED for one in done)
    if failed is not None:
        _cancel_workitems(parts, step)
        _give_up(parts, step, failed.reason_code or "", failed.reason or "Cancelled.", now)
    elif is_over and not any(one.is_open for one in owed):
        lost = _undelivered(owed)
        if lost:
            reason = f"{len(lost)} results were not delivered; {owed[0].destination} says: {lost[0].message}"
            _give_up(parts, step, "delivery-failed", reason, now)
        else:
            _complete(parts, worklist, step, done, owed, now)
    elif not _ended_by_others(
        parts, worklist, step, now, sentence=_sentence(done, is_over=is_over)
    ):
        again_at = now + timedelta(seconds=FOLLOW_S)
        procedure_steps.change(parts.index, step, now=now, again_at=again_at)


def _sentence(done: Sequence[Workitem], *, is_over: bool) -> str:
    if is_over:
        return "Analysed; results are being delivered."
    running = any(one.state is WorkitemState.IN_PROGRESS for one in done)
    return "The analysis runs." if running else "The analysis is scheduled."


def _undelivered(owed: Sequence[Delivery]) -> list[Delivery]:
    """Of each evidence that nobody took, one of its deliveries."""
    taken = {one.evidence.sop_instance_uid for one in owed if one.state in _DELIVERED}
    lost = {one.evidence.sop_instance_uid: one for one in owed}
    return [one for uid, one in lost.items() if uid not in taken]


def _complete(  # noqa: PLR0913, PLR0917 - what is told
    parts: Parts,
    worklist: Worklist,
    step: ProcedureStep,
    done: Sequence[Workitem],
    owed: Sequence[Delivery],
    now: datetime,
) -> None:
    places = {
        one.name: one.url or one.called_ae for one in destinations.list_destinations(parts.index)
    }
    outputs: list[tuple[Evidence, str]] = [
        (one.evidence, places.get(one.destination, one.destination))
        for one in owed
        if one.state in _DELIVERED
    ]
    ds = orders.performed(
        outputs,
        work=step.work,
        station=parts.config.node.ae_title,
        serial_number=parts.config.node.serial_number,
        started_at=min(one.started_at or step.claimed_at for one in done),
        ended_at=max(one.ended_at or now for one in done),
    )
    uid, mine = step.procedure_step_uid, step.transaction_uid
    worklist.client.update(uid, ds, transaction_uid=mine)
    worklist.client.change_state(uid, "COMPLETED", transaction_uid=mine)
    _change(parts, step, now, state=ProcedureStepState.COMPLETED)
    worklist.asked.pop(uid, None)


# -- discontinue ----------------------------------------------------------------------------------


def _give_up(parts: Parts, step: ProcedureStep, code: str, reason: str, now: datetime) -> None:
    """The step cannot be done: written down first, told to the worklist with the next look."""
    log.warning("step_given_up", step=step.procedure_step_uid, code=code, reason=reason)
    _change(parts, step, now, state=ProcedureStepState.CANCELING, reason=(code, reason))


def _discontinue(parts: Parts, worklist: Worklist, step: ProcedureStep, now: datetime) -> None:
    _, code = status_and_reason(step.reason_code or "")
    uid, mine = step.procedure_step_uid, step.transaction_uid
    ds = orders.discontinued(code, step.reason or "", now)
    worklist.client.update(uid, ds, transaction_uid=mine)
    worklist.client.change_state(uid, "CANCELED", transaction_uid=mine)
    _change(parts, step, now, state=ProcedureStepState.CANCELED)
    worklist.asked.pop(uid, None)


# -- what others do, and what goes wrong ----------------------------------------------------------


def _ended_by_others(
    parts: Parts, worklist: Worklist, step: ProcedureStep, now: datetime, *, sentence: str = ""
) -> bool:
    """Ask the worklist, once in `poll_s`, how the step stands: cancelled or ended there, it ends here.

    Else the worklist is told the sentence, and learns by it that we are alive.
    """
    uid = step.procedure_step_uid
    last = worklist.asked.get(uid)
    if last is not None and now - last < timedelta(seconds=worklist.setting.poll_s):
        return False
    worklist.asked[uid] = now
    order = orders.read_order(worklist.client.retrieve(uid))
    if order.state in ("CANCELED", "COMPLETED"):
        _end(parts, worklist, step, order.state, now)
        return True
    if sentence:
        ds = orders.progress(50, sentence)
        worklist.client.update(uid, ds, transaction_uid=step.transaction_uid)
    return False


def _end(parts: Parts, worklist: Worklist, step: ProcedureStep, state: str, now: datetime) -> None:
    """The worklist has ended a step: its workitems are stopped, unless they were there before it."""
    _cancel_workitems(parts, step)
    reason = ("ended-by-worklist", f"The worklist has made it {state}.")
    log.warning("step_ended_by_worklist", step=step.procedure_step_uid, state=state)
    _change(parts, step, now, state=ProcedureStepState.CANCELED, reason=reason)
    worklist.asked.pop(step.procedure_step_uid, None)


def _cancel_workitems(parts: Parts, step: ProcedureStep) -> None:
    for uid, is_new in step.workitems.items():
        if is_new:
            with suppress(ChangeRefused, NotFound):
                workitems.cancel(parts.index, uid, actor=f"worklist:{step.worklist}")


def _put_off(
    parts: Parts, worklist: Worklist, step: ProcedureStep, error: WorklistError, now: datetime
) -> None:
    """A request that failed: tried again, or the step is not ours any more."""
    log.warning(
        "worklist_request_failed",
        worklist=worklist.name,
        step=step.procedure_step_uid,
        code=error.code,
        reason=str(error),
    )
    was_ours = step.state is not ProcedureStepState.CLAIMING
    if error.code == "conflict" and was_ours and _settled_there(parts, worklist, step, now):
        return
    is_hopeless = error.code in ("refused", "unreadable") and step.attempts + 1 >= _REFUSALS
    if error.code in ("conflict", "unknown") or is_hopeless:
        _cancel_workitems(parts, step)
        code = {"conflict": "claimed-by-another", "unknown": "step-removed"}.get(error.code)
        reason = (code or f"worklist-{error.code}", str(error))
        _change(parts, step, now, state=ProcedureStepState.LOST, reason=reason)
        worklist.asked.pop(step.procedure_step_uid, None)
        return
    worklist.asked.pop(step.procedure_step_uid, None)
    procedure_steps.change(
        parts.index,
        step,
        now=now,
        again_at=now + timedelta(seconds=_backoff(worklist, step)),
        attempts=step.attempts + 1,
        reason=_why_put_off(step, error),
    )


def _why_put_off(step: ProcedureStep, error: WorklistError) -> tuple[str, str] | None:
    # The reason that a step is given up for stays: the worklist is still to hear it.
    if step.state is ProcedureStepState.CANCELING:
        return None
    return f"worklist-{error.code}", str(error)


def _settled_there(parts: Parts, worklist: Worklist, step: ProcedureStep, now: datetime) -> bool:
    """Whether the conflict is that the step has ended: by us, when our answer was lost, or by others."""
    try:
        state = orders.read_order(worklist.client.retrieve(step.procedure_step_uid)).state
    except WorklistError:
        return False
    ours = {
        "COMPLETED": (ProcedureStepState.PERFORMING, ProcedureStepState.COMPLETED),
        "CANCELED": (ProcedureStepState.CANCELING, ProcedureStepState.CANCELED),
    }
    if state not in ours:
        return False
    before, after = ours[state]
    done = [workitems.get(parts.index, uid).state for uid in step.workitems]
    is_over = state == "CANCELED" or all(one is WorkitemState.COMPLETED for one in done)
    if step.state is before and is_over:
        _change(parts, step, now, state=after)
    else:
        _end(parts, worklist, step, state, now)
    return True


def _backoff(worklist: Worklist, step: ProcedureStep) -> float:
    return min(_LONGEST_S, worklist.setting.poll_s * 2.0 ** min(step.attempts, 16))


def _change(
    parts: Parts,
    step: ProcedureStep,
    now: datetime,
    *,
    state: ProcedureStepState,
    reason: tuple[str, str] | None = None,
) -> None:
    log.info("step_is", step=step.procedure_step_uid, state=state)
    procedure_steps.change(parts.index, step, now=now, again_at=now, state=state, reason=reason)


_STEPS = {
    ProcedureStepState.CLAIMING: _claim,
    ProcedureStepState.CLAIMED: _gather,
    ProcedureStepState.PERFORMING: _follow,
    ProcedureStepState.CANCELING: _discontinue,
}
