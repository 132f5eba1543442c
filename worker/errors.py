"""Every error that evalworker raises on purpose.

    EvalWorkerError
    ├── InvalidInputs        enqueue: what was handed over cannot be evaluated (also a ValueError)
    ├── ConfigurationError   settings out of range or at odds with one another
    ├── SchemaMismatch       the database is older or newer than this worker
    ├── Unreachable          a database, broker or API that does not answer at start
    ├── UnknownJob           no job has this id
    ├── NotPossible          what a person asked for cannot be done now; it says why, and what can
    └── DeadThreads          the broker's threads are gone: only a restart of the process helps

What the judge API answers is never an exception: see the outcomes in `worker.domain.lifecycle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

SHOWN = 50  # offences spelled out in one message; the rest is counted


class EvalWorkerError(Exception):
    """The root: catch this to catch them all."""


class InvalidInputs(EvalWorkerError, ValueError):
    """Nothing was written; `offences` names each with its place, such as `inputs[3].contexts`."""

    def __init__(self, offences: Sequence[str], *, total: int | None = None) -> None:
        self.offences = list(offences)
        self.total = len(self.offences) if total is None else total
        lines = [f"  {offence}" for offence in self.offences[:SHOWN]]
        if self.total > len(lines):
            lines.append(f"  … and {self.total - len(lines)} more")
        super().__init__("\n".join(["nothing was enqueued:", *lines]))


class ConfigurationError(EvalWorkerError):
    """All offending settings at once, each by the name of its environment variable."""

    def __init__(self, offences: Sequence[str]) -> None:
        self.offences = list(offences)
        super().__init__("\n".join(self.offences))


class SchemaMismatch(EvalWorkerError):
    """The tables are missing, older or newer; the message names the command that mends it."""


class Unreachable(EvalWorkerError):
    """Something that must answer at start does not; the message names its URL, password hidden."""

    def __init__(self, what: str, url: str, cause: object) -> None:
        first_line = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        super().__init__(f"cannot reach the {what} at {url}: {first_line}")


class DeadThreads(EvalWorkerError):
    """A thread that fetches or works on messages has died: better restarted than idle for ever."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"threads have died ({', '.join(names)}): the process must be restarted")


class UnknownJob(EvalWorkerError):
    """No job has this id."""

    def __init__(self, job_id: UUID | str) -> None:
        super().__init__(f"there is no job {job_id}")


class NotPossible(EvalWorkerError):
    """Nothing was changed; the message says what stands in the way."""
