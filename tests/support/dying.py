"""A worker that dies where it is told to.

Each effect of the worker (a commit that changes something, a request to the judge API, a message
to the broker) has a name made of the step and of what it does there: `submit: commit of
record_accepted`. `before` and `after` it are the places where a process can die between two
effects. Names are made at the seams as they are, so that a new effect has one from its first run.

The worker has no switch for this. A process of `dying` is forked from a server in which the
worker is imported already, watches the seams, and is `evalworker` from there on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.cli import main
from worker.pipeline import submit
from worker.pipeline.messages import Mailbox
from worker.remote import JudgeAPI
from worker.store import database, leases
from worker.store.database import Transaction
from worker.webhooks.client import Webhooks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType
    from uuid import UUID

    import httpx

STEPS = {
    "check_api": "start",
    "Dispatcher._sweep": "sweep",
    "Dispatcher.turn": "turn",
    "Steps.submit": "submit",
    "Steps._search": "search",
    "Steps.poll": "poll",
    "Notices.notify": "notify",
    "Watch.turn": "watch",
}
BESIDES = ("gates", "pace")  # what changes along with a batch

STORE = str(Path(database.__file__).parent)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["worker.cli", "dramatiq_postgres", "httpcore"])
_starting_or_reaping = threading.Lock()  # to start a process also reaps those of other threads


@dataclass(frozen=True)
class Life:
    """How one process lives; `log` gets its output, `met` a line for each place it comes by."""

    arguments: Sequence[str]
    env: Mapping[str, str]
    log: Path
    met: Path
    dies: str | None = None  # the place; None: it lives to its end
    hurried: bool = False  # some waits, which decide how long a test takes and nothing else

    def spend(self, *, seconds: float) -> int:
        """Runs it in a process of its own; its exit status, or minus the signal that ended it."""
        with _starting_or_reaping:
            process = _context.Process(target=_live, args=(self,))
            process.start()
        in_time = wait([process.sentinel], seconds)
        with _starting_or_reaping:
            if not in_time:
                process.kill()
            process.join()
        if not in_time or process.exitcode is None:
            raise TimeoutError(f"still there after {seconds:g} s")
        return process.exitcode


def _live(life: Life) -> None:
    output = os.open(life.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.environ.clear()
    os.environ.update(life.env)
    if life.hurried:
        submit.LOOKS = tuple(look / 20 for look in submit.LOOKS)  # type: ignore[assignment, attr-defined]
        leases.NUDGE_AFTER = 0.3
    _watch(_Place(life.met, life.dies))
    sys.argv = ["evalworker", *life.arguments]
    main()


class _Place:
    """Where the process is: told to a file, which outlives it."""

    def __init__(self, met: Path, dies: str | None) -> None:
        self._met = os.open(met, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._dies = dies
        self.thread = threading.local()

    def reached(self, moment: str, effect: str) -> None:
        place = f"{moment} {_step()}: {effect}"
        os.write(self._met, f"{place}\n".encode())
        if place == self._dies:
            os.kill(os.getpid(), signal.SIGKILL)


def _watch(place: _Place) -> None:
    database.Transaction = _transaction(place)  # type: ignore[misc]
    exchange, send, post = JudgeAPI._exchange, Mailbox._send, Webhooks._post

    def exchange_noticed(api: JudgeAPI, name: str, request: httpx.Request, *given: Any) -> Any:
        place.reached("before", _request(request))
        answer = exchange(api, name, request, *given)
        place.reached("after", _request(request))
        return answer

    def send_noticed(mailbox: Mailbox, actor_name: str, batch_id: UUID, delay: float) -> None:
        effect = f"message to {actor_name}, after {place.thread.committed}"
        place.reached("before", effect)
        send(mailbox, actor_name, batch_id, delay)
        place.reached("after", effect)

    def post_noticed(webhooks: Webhooks, *given: Any) -> Any:
        place.reached("before", "POST of a notice")
        answer = post(webhooks, *given)
        place.reached("after", "POST of a notice")
        return answer

    Webhooks._post = post_noticed  # type: ignore[assignment]
    JudgeAPI._exchange = exchange_noticed  # type: ignore[assignment]
    Mailbox._send = send_noticed  # type: ignore[assignment]


def _request(request: httpx.Request) -> str:
    if request.method == "POST":
        return "POST of a batch"
    of_all = request.url.path.endswith("/batch-executions/")
    return f"GET of {'the list' if of_all else 'a batch'}"


def _transaction(place: _Place) -> type[Transaction]:
    class Noticed(Transaction):
        """Its commit is named for the transitions that changed a row in it; none: no effect."""

        def __init__(self, connection: Any) -> None:
            super().__init__(connection)
            self.changed: list[str] = []
            self.execute = self._execute  # type: ignore[assignment]
            self.scalar = lambda *given: self._execute(*given).scalar()  # type: ignore[assignment]
            self.scalars = lambda *given: self._execute(*given).scalars()  # type: ignore[assignment]

        def _execute(self, statement: Any, *given: Any) -> Any:
            result: Any = self.connection.execute(statement, *given)
            if statement.is_select:
                return result
            if result.returns_rows:  # only when all are read does SQLite know how many they are
                frozen = result.freeze()
                result, count = frozen(), len(frozen.data)
            else:
                count = result.rowcount
            transition = _transition()
            if count and transition not in [None, *self.changed]:
                self.changed.append(str(transition))
            return result

        def write_events(self) -> None:
            super().write_events()
            if self.changed:
                place.reached("before", f"commit of {self._name()}")

        def log_events(self) -> None:  # the first thing after the commit
            if self.changed:
                place.thread.committed = self._name()
                place.reached("after", f"commit of {self._name()}")
            super().log_events()

        def _name(self) -> str:
            """What became of the batch; what changes besides comes second."""
            own = [name for name in self.changed if not name.startswith(BESIDES)]
            return " and ".join(own or self.changed)

    return Noticed


def _callers() -> list[FrameType]:
    """From the innermost on."""
    found: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found


def _step() -> str:
    """The step that is under way; of an unknown one, the function of the worker that began it."""
    frames = _callers()
    for frame in frames:
        if frame.f_code.co_qualname in STEPS:
            return STEPS[frame.f_code.co_qualname]
    package = str(Path(STORE).parent)
    ours = [frame for frame in frames if frame.f_code.co_filename.startswith(package)]
    return " < ".join(frame.f_code.co_qualname for frame in ours)


def _transition() -> str | None:
    """The function of the store that a step called, and that led to this statement."""
    entered = None
    for frame in _callers():
        code = frame.f_code
        if code.co_qualname == "Database.run":
            break
        if code.co_filename.startswith(STORE) and code.co_filename != database.__file__:
            stem = Path(code.co_filename).stem
            entered = f"{stem}.{code.co_name}" if stem in BESIDES else code.co_name
    return entered
