"""Define every error that evalworker raises on purpose.

    EvalWorkerError
    ├── InvalidInputs        arguments or inputs of a job are invalid (also a ValueError)
    │   └── IdempotencyKeyReused   the key of the job belongs to another one
    ├── ConfigurationError   settings are invalid or contradict one another
    ├── InvalidDefinitions   the files that define judges are invalid
    ├── SchemaMismatch       the database schema is missing, older or newer than this version
    ├── Unreachable          a database, broker or API does not respond at startup
    ├── UnknownJob           no job has this id
    ├── NotPossible          the requested change is not possible in the current state
    ├── TooSlow              a read was stopped because it took longer than was allowed
    └── DeadThreads          threads of the broker have died: the process must be restarted

A response of the judge API is never an exception: `worker.domain.outcomes` defines its outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

SHOWN = 50  # problems listed in one message; the others are only counted


class EvalWorkerError(Exception):
    """Base class of all errors that evalworker raises on purpose."""


class InvalidInputs(EvalWorkerError, ValueError):
    """A job is invalid. Nothing of it was written.

    Attributes:
        offences: The first 50 problems, one string each, beginning with the path of the value,
            such as `inputs[3].contexts`.
        total: Number of all problems, which may be more than `offences` lists.
    """

    def __init__(self, offences: Sequence[str], *, total: int | None = None) -> None:
        self.offences = list(offences)
        self.total = len(self.offences) if total is None else total
        lines = [f"  {offence}" for offence in self.offences[:SHOWN]]
        if self.total > len(lines):
            lines.append(f"  … and {self.total - len(lines)} more")
        super().__init__("\n".join(["nothing was enqueued:", *lines]))


class IdempotencyKeyReused(InvalidInputs):
    """The idempotency key belongs to a job with other content. Nothing was written.

    Attributes:
        key: The idempotency key.
        job_id: Id of the job that has it; `None` if it is another producer's, which this one may
            not see.
    """

    def __init__(self, key: str, job_id: UUID | None = None) -> None:
        self.key, self.job_id = key, job_id
        reason = (
            "belongs to a job that this producer may not see"
            if job_id is None
            else f"was used for job {job_id}, which has another judge, version, tags or inputs"
        )
        super().__init__([f"idempotency_key {key!r} {reason}"])


class ConfigurationError(EvalWorkerError):
    """Settings are invalid or contradict one another.

    Attributes:
        offences: All problems, one string each, with the name of the environment variable.
    """

    def __init__(self, offences: Sequence[str]) -> None:
        self.offences = list(offences)
        super().__init__("\n".join(self.offences))


class InvalidDefinitions(EvalWorkerError):
    """Files that define judges, evaluators or models are invalid.

    Attributes:
        offences: All problems, one string each, beginning with the file and the key or line in it.
    """

    def __init__(self, offences: Sequence[str]) -> None:
        self.offences = list(offences)
        super().__init__("\n".join(self.offences))


class SchemaMismatch(EvalWorkerError):
    """The schema is missing, older or newer. The message names the command that fixes it."""


class Unreachable(EvalWorkerError):
    """A service that is needed at startup does not respond. The message hides its password."""

    def __init__(self, what: str, url: str, cause: object) -> None:
        first_line = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        super().__init__(f"cannot reach the {what} at {url}: {first_line}")


class TooSlow(EvalWorkerError):
    """A read was stopped because it took longer than was allowed.

    Attributes:
        seconds: The time that it was allowed to take.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"the database did not answer within {seconds:g} s")


class DeadThreads(EvalWorkerError):
    """Threads that receive or process messages have died, so the process must be restarted."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"threads have died ({', '.join(names)}): the process must be restarted")


class UnknownJob(EvalWorkerError):
    """No job has this id."""

    def __init__(self, job_id: UUID | str) -> None:
        super().__init__(f"there is no job {job_id}")


class NotPossible(EvalWorkerError):
    """The requested change is not possible now. Nothing changed; the message gives the reason."""
