"""Serve the judge service, or the sandbox, in the background or in the foreground."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

from starlette.types import ASGIApp

from worker.errors import InvalidDefinitions, NotPossible
from worker.http_server import bind_socket, create_server, serve_in_background
from worker.judge.app import JudgeService
from worker.judge.engine import Engine
from worker.judge.judges_file import Definitions
from worker.judge.ledger import IN_MEMORY, Ledger

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None  # type: ignore[assignment]

SHUTDOWN_SECONDS = 2
KEY_OF_ANYBODY = "any"  # the worker sends one in any case
CreateApp = Callable[[Ledger], ASGIApp]


def judge_app(definitions: Definitions) -> CreateApp:
    return lambda ledger: JudgeService(Engine(definitions, ledger)).create_app()


@contextlib.contextmanager
def running(
    create_app: CreateApp, *, state: str | Path = IN_MEMORY, port: int = 0
) -> Iterator[str]:
    """Serve in the background on a loopback port, and yield the URL; 0 means any free port."""
    with bind_socket("127.0.0.1", port) as listener, contextlib.closing(Ledger(state)) as ledger:
        app = create_app(ledger)
        with serve_in_background(app, listener, name="judge", shutdown_seconds=SHUTDOWN_SECONDS):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def serve(
    create_app: CreateApp, *, host: str, port: int, state: str | Path, key: str | None
) -> None:
    """Serve in the foreground until SIGINT or SIGTERM; a `key` is shown to be copied."""
    with (
        bind_socket(host, port) as listener,
        _sole_owner(state),
        contextlib.closing(Ledger(state)) as ledger,
    ):
        url = f"http://{host}:{listener.getsockname()[1]}"
        print(f"export EVALWORKER_API_URL={url}", flush=True)  # noqa: T201 (for the user to copy)
        if key is not None:
            print(f"export EVALWORKER_API_KEY={key}", flush=True)  # noqa: T201
        app = create_app(ledger)
        create_server(app, name="judge", shutdown_seconds=SHUTDOWN_SECONDS).run([listener])


@contextlib.contextmanager
def _sole_owner(state: str | Path) -> Iterator[None]:
    """Keep a second service from the same file: it would pay for the same evaluations."""
    if fcntl is None or state == IN_MEMORY:
        yield
        return
    Ledger(state).close()  # so that there is a file to lock
    with Path(state).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise NotPossible(f"another judge service uses {state}: name another --state") from None
        yield


def check_host(host: str, definitions: Definitions) -> None:
    """Raise `InvalidDefinitions` if others could spend the operator's money."""
    try:
        is_local = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        is_local = False
    if not is_local and definitions.server_key is None:
        raise InvalidDefinitions(
            [
                f"--host {host} lets others in, and each submission may cost money:"
                " name the variable of their key in judges.toml, [server] key_env"
            ]
        )
