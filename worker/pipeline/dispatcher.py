"""Plan batches from waiting items, and send a message for every row that is due.

Messages are hints: each is sent after its commit, and sent again when its row is overdue. Any
number of replicas may run a dispatcher; the rows keep them out of each other's way.
"""

from __future__ import annotations

import threading

from worker.domain.lifecycle import BatchState
from worker.pipeline import planner
from worker.pipeline.context import StepContext
from worker.pipeline.loop_errors import LoopErrors
from worker.pipeline.planner import Plan
from worker.store import job_completion, leases, webhook_deliveries

TURN_SECONDS = 0.5  # between two turns when nothing wakes the dispatcher
DEBOUNCE_SECONDS = 0.02  # wake-ups within this time make one turn
SWEEP_SECONDS = 15.0  # between two sweeps for waiting items that nothing would plan
MAX_SWEEP_PART = 0.02  # of the time: where millions wait, a sweep takes a while
MAX_SWEEP_SECONDS = 600.0  # between two sweeps, also if the database made one wait for minutes
TROUBLE_SECONDS = 2.0  # after a turn that failed


class Dispatcher:
    """One thread that takes turn after turn; whatever finds new work wakes it."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.last_turn = context.monotonic()
        self._sweeps_at = float("-inf")
        self._woken = threading.Event()
        self._stopping = threading.Event()

    def turn_age(self) -> float:
        """Return the seconds since its last complete turn."""
        return self.context.monotonic() - self.last_turn

    def wake(self) -> None:
        """Start the next turn now: there may be something to plan."""
        self._woken.set()

    def stop(self) -> None:
        self._stopping.set()
        self._woken.set()

    def run(self) -> None:
        """Take turns until stopped; errors are logged and waited out."""
        outages = self.context.database.outages
        errors = LoopErrors("dispatcher", outages, monotonic=self.context.monotonic)
        while not self._stopping.is_set():
            try:
                pause = self.turn()
            except Exception as error:  # noqa: BLE001 (without its dispatcher, a process is idle)
                errors.report(error)
                pause = TROUBLE_SECONDS
            if self._woken.wait(pause):
                self._stopping.wait(DEBOUNCE_SECONDS)
            self._woken.clear()

    def turn(self) -> float:
        """Plan what can be planned, send what is due; returns the seconds until the next turn."""
        self._sweep()
        database, messages = self.context.database, self.context.messages
        # While this process stands by, others do this: a message must not end here.
        plan = Plan() if self.context.standby.stands_by() else self._send_batches()
        for notice_id in database.run(webhook_deliveries.nudge_due):
            messages.notify(notice_id)
        self.last_turn = self.context.monotonic()
        return min(TURN_SECONDS, plan.next_in if plan.next_in is not None else TURN_SECONDS)

    def _send_batches(self) -> Plan:
        database, messages = self.context.database, self.context.messages
        plan = database.run(lambda tx: planner.plan(tx, self.context.policy))
        for batch_id in plan.batch_ids:
            messages.submit(batch_id)
        for batch_id, state in database.run(leases.nudge_overdue):
            send = messages.poll if state is BatchState.SUBMITTED else messages.submit
            send(batch_id)
        return plan

    def _sweep(self) -> None:
        began = self.context.monotonic()
        if began >= self._sweeps_at:
            self.context.database.run(job_completion.wake_stray_jobs)
            ended = self.context.monotonic()
            wait = max(SWEEP_SECONDS, (ended - began) / MAX_SWEEP_PART)
            self._sweeps_at = ended + min(wait, MAX_SWEEP_SECONDS)
