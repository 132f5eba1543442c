"""Run the command line; each command is a module here, imported when it is called.

Exit status: 0 done, 1 failed work, 2 wrong use. Output that was asked for goes to standard
output, logs and progress to standard error.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Annotated, Any

import typer
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from worker import __version__
from worker.cli.context import err, out
from worker.domain.terminal_text import escape_controls
from worker.errors import ConfigurationError, EvalWorkerError, InvalidDefinitions
from worker.logs import redact
from worker.store.outage import RIGHTS_REMEDY, lacks_rights

COMMANDS = {
    "demo": "Evaluate 200 inputs on this machine, with a SQLite file and a sandbox judge.",
    "migrate": "Upgrade the database to this worker's schema; other tables are not touched.",
    "run": "Run a worker: plan, submit, poll and record, until SIGTERM or Ctrl-C.",
    "gateway": "Serve the judge API in front of the outbox; workers elsewhere do the work.",
    "console": "Serve the console: web pages for viewing jobs and scores, and for acting on them.",
    "enqueue": "Enqueue the inputs of FILE as one job, and print the job's id.",
    "status": "Show the progress of a job, or an overview of jobs, batches and what blocks them.",
    "results": "Show or export every input of a job with its scores, in order.",
    "compare": "Compare the scores of two jobs, input by input: is the second one better?",
    "report": "Write a report of a job: one self-contained HTML file that can be mailed.",
    "retry": "Evaluate the failed inputs of a job again, with their attempts reset.",
    "cancel": "Cancel a job: send nothing more, and drop what still comes back from the judge.",
    "pause": "Submit nothing new until `resume`; batches at the judge continue and are recorded.",
    "resume": "End a pause; the pauses of other judges stay.",
    "batches": "List batches, newest first, with their states and errors.",
    "resolve": "Release a batch on hold: search for it at the judge, or submit it again.",
    "events": "Print the history of a job, its inputs and its batches, oldest first.",
    "prune": "Delete ended jobs with their results and history; open jobs are never touched.",
    "check": "Show every setting and its source; test the database, the broker and the judge API.",
    "judges": "List the judges of the judge API, if it has a list of them.",
    "judge init": "Write a judges.toml to start from into a folder.",
    "judge serve": "Serve the judge API over models of your own, as judges.toml names them.",
    "judge check": "Run the calibration examples: how far is each evaluator from people's scores?",
    "judge usage": "Show what judges did and cost, by day, and what they wait for.",
    "sandbox": "Serve a simulated judge API, for a machine without an API key.",
}
"""Every command and its help, so that listing them imports none of them."""

GROUPS = {"judge": "Run a judge of your own: the judge API over any OpenAI-compatible endpoint."}
"""The first words of commands of two words."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # on the disk, or for this user

OPTIONS: dict[str, Any] = {"pretty_exceptions_enable": False}


def command_function(name: str) -> Callable[..., None]:
    """Import the module of a command, and return its function."""
    module = name.replace(" ", "_")
    function: Callable[..., None] = getattr(import_module(f"worker.cli.{module}"), module)
    return function


class _PipedHelp:
    """A command or group whose help may be cut off by whoever reads it, such as `head`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        try:
            super().format_help(ctx, formatter)  # type: ignore[misc]
        except SystemExit:  # Rich's own end of a process whose output is read no more: a failure
            raise BrokenPipeError from None


class PlainCommand(_PipedHelp, TyperCommand):
    """A command whose help is the same with every version of Typer, and as documented."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002 (Typer's signature)
        arguments = [
            _argument_name(parameter) if parameter.required else f"[{_argument_name(parameter)}]"
            for parameter in self.params
            if parameter.param_type_name == "argument"
        ]
        return [self.options_metavar or "", *arguments]

    def get_params(self, ctx: Any) -> list[Any]:
        return _with_plain_types(super().get_params(ctx))


class LazyGroup(_PipedHelp, TyperGroup):
    """A group whose commands are stubs for its help; the one that is called gets imported."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        full_name = name if ctx.parent is None else f"{ctx.info_name} {name}"
        if name is not None and full_name in COMMANDS:
            single = typer.Typer(add_completion=False, **OPTIONS)
            single.command(name, help=COMMANDS[full_name], cls=PlainCommand)(
                command_function(full_name)
            )
            command = get_command(single)
        return name, command, rest

    def get_params(self, ctx: Any) -> list[Any]:
        return _with_plain_types(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _until_enough_is_read(), _printable_message():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _until_enough_is_read():
            with _printable_message():
                result = super().invoke(ctx)
            sys.stdout.flush()
        return result


@contextlib.contextmanager
def _until_enough_is_read() -> Iterator[None]:
    """End quietly when whoever reads the output has read enough."""
    try:
        yield
    except BrokenPipeError:
        _drop_output()
        raise typer.Exit from None


def _drop_output() -> None:
    """Drop what is still buffered: it would be written, in vain, when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _printable_message() -> Iterator[None]:
    """Escape what Typer shows of a usage error: it quotes arguments and names of files."""
    try:
        yield
    except Exception as error:
        message = getattr(error, "message", None)
        if isinstance(message, str):
            error.message = escape_controls(message, keep="\n")  # type: ignore[attr-defined]
        raise


def _argument_name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _with_plain_types(parameters: list[Any]) -> list[Any]:
    """Say what a parameter takes where versions of Typer say how it is declared in Python."""
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            parameter.metavar = _argument_name(parameter)
        elif parameter.is_flag:
            parameter.metavar = ""
        elif parameter.multiple:
            parameter.metavar = parameter.metavar or "TEXT"
    return parameters


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"evalworker {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="evalworker",
    help="Durable evaluation over the Judge Batch Execution API.",
    cls=LazyGroup,
    no_args_is_help=True,
    **OPTIONS,
)
_groups = {
    name: typer.Typer(cls=LazyGroup, help=text, no_args_is_help=True, **OPTIONS)
    for name, text in GROUPS.items()
}
for _name, _help in COMMANDS.items():
    _group, _, _word = _name.rpartition(" ")
    (_groups[_group] if _group else app).command(_word, help=_help)(lambda: None)
for _name, _group_app in _groups.items():
    app.add_typer(_group_app, name=_name)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; print each expected error as one line, without a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what the terminal cannot show
    try:
        app()
    except InvalidDefinitions as error:
        err.print("[red]evalworker:[/] invalid definitions of judges")
        err.print(redact(str(error)), markup=False)
        sys.exit(2)
    except ConfigurationError as error:
        err.print("[red]evalworker:[/] invalid settings")
        err.print(redact(str(error)), markup=False)
        sys.exit(2)
    except EvalWorkerError as error:
        err.print(f"evalworker: {redact(str(error))}", markup=False)
        sys.exit(1)
    except DBAPIError as error:
        if not _is_operational(error):
            raise
        reason = str(error.orig).partition("\n")[0]
        remedy = f"; {RIGHTS_REMEDY}" if lacks_rights(error) else ""
        err.print(f"evalworker: the database says: {redact(reason)}{remedy}", markup=False)
        sys.exit(1)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        _drop_output()
        err.print(f"evalworker: the output cannot be written: {error.strerror}", markup=False)
        sys.exit(1)


def _is_operational(error: DBAPIError) -> bool:
    """Return whether the database is away, locked or full, denies access to its user, or has a
    value that cannot be read.
    """
    is_state = isinstance(error, OperationalError | InterfaceError | DataError)
    return is_state or lacks_rights(error)
