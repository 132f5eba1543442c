"""The command line: a thin shell over the same functions that services use.

Exit status: 0 done, 1 failed work, 2 wrong use. What a person reads about the work goes to
standard output, logs and progress to standard error.
"""

from __future__ import annotations

import sys

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from worker.cli import operate, serve, show, status, work
from worker.cli.context import app, console
from worker.errors import ConfigurationError, EvalWorkerError
from worker.logs import redact

NO_PRIVILEGE = "42501"  # PostgreSQL

__all__ = ["app", "main", "operate", "serve", "show", "status", "work"]


def main() -> None:
    """The entry point: every error that we raise on purpose is a line, not a traceback."""
    try:
        app()
    except ConfigurationError as error:
        console.print(f"[red]evalworker:[/] wrong settings\n{redact(str(error))}", style="none")
        sys.exit(2)
    except EvalWorkerError as error:
        console.print(f"evalworker: {redact(str(error))}", markup=False)
        sys.exit(1)
    except DBAPIError as error:
        if not _is_of_the_database(error):
            raise
        reason = str(error.orig).partition("\n")[0]
        console.print(f"evalworker: the database says: {redact(reason)}", markup=False)
        sys.exit(1)


def _is_of_the_database(error: DBAPIError) -> bool:
    """It is away, locked or full, or its login may not do this: nothing that a traceback mends."""
    not_allowed = getattr(error.orig, "sqlstate", None) == NO_PRIVILEGE
    return not_allowed or isinstance(error, OperationalError | InterfaceError)
