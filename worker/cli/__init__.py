"""The command line: a thin shell over the same functions that services use.

Exit status: 0 done, 1 failed work, 2 wrong use. What a person reads about the work goes to
standard output, logs and progress to standard error.
"""

from __future__ import annotations

import sys

from worker.cli import operate, serve, show, status, work
from worker.cli.shell import app, console
from worker.errors import ConfigurationError, EvalWorkerError
from worker.logs import redact

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
