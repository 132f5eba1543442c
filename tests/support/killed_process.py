"""A worker process that kills itself at a named crash point.

Each effect of the worker (a commit that changes something, a request to the judge API, a message
to the broker) has a name: the claim under which it happens, and what it does, as in
`claim_search: commit of record_accepted`. What happens outside of a claim has no prefix. The
crash points are the moments `before` and `after` each effect. The names are those of functions in
`worker.store`, read from the call stack while the worker runs, so that a new effect has a name
from its first run.

The worker itself has no switch for this. The process is forked from a server in which the worker
is already imported, replaces the seams named in `_observe_effects`, and is `evalworker` from
there on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tests.support.shorter_waits import shorten_waits
from worker.cli import main
from worker.pipeline.messages import MessageSender
from worker.remote import JudgeAPI
from worker.store import database, transaction
from worker.store.database import Database
from worker.store.transaction import Transaction
from worker.webhooks.client import WebhookClient

COMPANIONS = frozenset(
    {
        "claim_read",
        "close",
        "count_failure",
        "lower_limit",
        "open_gates",
        "record_key_refused",
        "release_probe",
        "schedule_read",
        "start_jobs",
        "start_probe",
    }
)
"""Store functions whose change accompanies a transition of a batch: named only where they are
alone in their transaction."""

OF_THE_PROCESS = frozenset({"probe_now", "record_alive", "record_ended"})
"""Store functions that concern no batch, called when a process starts, now and then, and ends."""

STORE = str(Path(database.__file__).parent)
NO_TRANSITIONS = (database.__file__, transaction.__file__)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["worker.cli.run", "dramatiq_postgres", "httpcore", __name__])
_start_or_reap = threading.Lock()  # starting a process also reaps those of other threads


@dataclass(frozen=True)
class WorkerProcess:
    """One run of the `evalworker` command in a process of its own."""

    arguments: Sequence[str]
    env: Mapping[str, str]
    log: Path  # receives the output of the process
    reached: Path  # receives a line for each crash point that the process reaches
    killed_at: str | None = None  # a crash point; None: the process runs to its end
    hurried: bool = False  # shorten the waits that decide only how long the test takes

    def run(self, *, seconds: float) -> int:
        """Run the process and return its exit status, or minus the signal that ended it."""
        with _start_or_reap:
            process = _context.Process(target=_run, args=(self,))
            process.start()
        in_time = wait([process.sentinel], seconds)
        with _start_or_reap:
            if not in_time:
                process.kill()
            process.join()
        if not in_time or process.exitcode is None:
            raise TimeoutError(f"still running after {seconds:g} s")
        return process.exitcode


def _run(spec: WorkerProcess) -> None:
    output = os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.environ.clear()
    os.environ.update(spec.env)
    if spec.hurried:
        shorten_waits()
    _observe_effects(_CrashPoints(spec.reached, spec.killed_at))
    sys.argv = ["evalworker", *spec.arguments]
    main()


class _CrashPoints:
    """Writes each crash point to a file, which outlives the process, and dies at one of them."""

    def __init__(self, reached: Path, killed_at: str | None) -> None:
        self._reached = os.open(reached, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._killed_at = killed_at
        self._thread = threading.local()

    def claimed(self, claim: str) -> None:
        """Note that what this thread does from now on happens under that claim."""
        self._thread.claim = claim

    def committed(self, transitions: str) -> None:
        self._thread.committed = transitions

    def message(self, actor_name: str) -> str:
        return f"message to {actor_name}, after {self._thread.committed}"

    def reach(self, moment: str, effect: str) -> None:
        claim = getattr(self._thread, "claim", None)
        is_claim = claim is not None and effect.startswith(f"commit of {claim}")
        point = f"{moment} {effect}" if claim is None or is_claim else f"{moment} {claim}: {effect}"
        os.write(self._reached, f"{point}\n".encode())
        if point == self._killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Callable[..., Any], effect: Callable[..., str]) -> Callable[..., Any]:
        """Return `call` with a crash point before and after it; `effect` gets its arguments."""

        def observed(*args: Any, **kwargs: Any) -> Any:
            name = effect(*args)
            self.reach("before", name)
            result = call(*args, **kwargs)
            self.reach("after", name)
            return result

        return observed


def _observe_effects(points: _CrashPoints) -> None:
    database.Transaction = _transaction(points)  # type: ignore[attr-defined]
    seams: Sequence[tuple[type, str, Callable[..., str]]] = (
        (JudgeAPI, JudgeAPI.submit.__name__, lambda *_: "POST of a batch"),
        (JudgeAPI, JudgeAPI.status.__name__, lambda *_: "GET of a batch"),
        (JudgeAPI, JudgeAPI.list_executions.__name__, lambda *_: "GET of the list"),
        (WebhookClient, WebhookClient.send.__name__, lambda *_: "POST of a notice"),
        (MessageSender, MessageSender.submit.__name__, lambda *_: points.message("submit")),
        (MessageSender, MessageSender.poll.__name__, lambda *_: points.message("poll")),
        (MessageSender, MessageSender.notify.__name__, lambda *_: points.message("notify")),
    )
    for owner, name, effect in seams:
        setattr(owner, name, points.around(getattr(owner, name), effect))


def _transaction(points: _CrashPoints) -> type[Transaction]:
    class ObservedTransaction(Transaction):
        """Its commit is named for the store functions that changed a row; none: no effect."""

        def __init__(self, connection: Any, actor: str | None = None) -> None:
            super().__init__(connection, actor)
            self.changed: list[str] = []
            self.execute = self._execute  # type: ignore[assignment]
            self.scalar = lambda *args: self._execute(*args).scalar()  # type: ignore[assignment]
            self.scalars = lambda *args: self._execute(*args).scalars()  # type: ignore[assignment]

        def _execute(self, statement: Any, *args: Any) -> Any:
            result: Any = self.connection.execute(statement, *args)
            if statement.is_select:
                return result
            if result.returns_rows:  # SQLite knows their number only when all have been read
                frozen = result.freeze()
                result, count = frozen(), len(frozen.data)
            else:
                count = result.rowcount
            self._note(count)
            return result

        def execute_recording(self, statement: Any, *args: Any, **detail: Any) -> Any:
            rows = super().execute_recording(statement, *args, **detail)
            if not statement.is_select:  # of PostgreSQL, `_execute` has seen a SELECT
                self._note(len(rows))
            return rows

        def _note(self, count: int) -> None:
            transition = _store_function()
            if not count or transition is None or transition in OF_THE_PROCESS:
                return
            if transition not in self.changed:
                self.changed.append(transition)
                if transition.startswith("claim"):
                    points.claimed(transition)

        def write_events(self) -> None:
            super().write_events()
            if self.changed:
                points.reach("before", f"commit of {self._transitions()}")

        def log_events(self) -> None:  # called first after the commit
            if self.changed:
                points.committed(self._transitions())
                points.reach("after", f"commit of {self._transitions()}")
            super().log_events()

        def _transitions(self) -> str:
            own = [name for name in self.changed if name not in COMPANIONS]
            return " and ".join(own or self.changed)

    return ObservedTransaction


def _store_function() -> str | None:
    """Return the name of the outermost function of the store that led to this statement."""
    outermost = None
    frame = sys._getframe(1)
    while frame.f_code is not Database.run.__code__:
        file = frame.f_code.co_filename
        if file.startswith(STORE) and file not in NO_TRANSITIONS:
            outermost = frame.f_code.co_name
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return outermost
