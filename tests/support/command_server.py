"""A fork server for the `evalworker` command: it has imported already what the command imports.

Most of what a short command costs is the import of its dependencies, and tests run hundreds of
commands. `serve` imports them once and forks a process for each client; `CLIENT` is a small
program that stands for the command: it hands over its arguments, environment, directory and
standard streams, passes on signals, and ends as the command ended. When a client is killed, the
server kills its command, a moment later; `command_process` finds the command itself.

    python -m tests.support.command_server SOCKET
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import marshal
import os
import pkgutil
import selectors
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import worker

CLIENT = """#!{python} -IS
import marshal, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
ignores_ctrl_c = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
given = marshal.dumps((sys.argv[1:], dict(os.environ), os.getcwd(), ignores_ctrl_c))
socket.send_fds(server, [len(given).to_bytes(8, "big")], [0, 1, 2])
server.sendall(given)
pid = int(server.recv(16))
with open({address!r} + "." + str(os.getpid()), "w") as file:
    file.write(str(pid))
for passed_on in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(passed_on, lambda number, _: os.kill(pid, number))
status = int(server.recv(16))
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""

# Not imported beforehand: a console reads the environment and the terminal when it is made, and
# the extra `otel` may not be installed.
NOT_PRELOADED = ("worker.cli", "worker.__main__", "worker.tracing.spans")
LAZILY_IMPORTED = ("dramatiq_postgres", "httpcore", "rich.console", "rich.table", "typer")

PREPARE = "TEST_PREPARE"  # a variable of the environment: functions to call before the command


def preload() -> None:
    _import_all(worker.__path__, "worker.")
    for name in LAZILY_IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _import_all(path: Iterable[str], prefix: str) -> None:
    for found in pkgutil.iter_modules(path, prefix):
        if found.name not in NOT_PRELOADED:
            module = importlib.import_module(found.name)
            if found.ispkg:
                _import_all(module.__path__, f"{found.name}.")


def command_process(address: str, client: int) -> int | None:
    """Return the process id of this client's command; None where it has none yet."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(Path(f"{address}.{client}").read_text())
    return None


def serve(address: str) -> None:
    """Fork a process for each client; return in these processes only."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    wakes, woken = socket.socketpair()
    woken.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken.fileno())
    clients: dict[int, socket.socket] = {}  # by the process that is theirs
    signal.signal(signal.SIGTERM, lambda *_: _end(clients))
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(wakes, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is wakes:
                    wakes.recv(4096)
                    _report_ended(clients, selector)
                elif key.fileobj is listener:
                    client, _ = listener.accept()
                    files, given = _receive(client)
                    pid = os.fork()
                    if pid == 0:
                        signal.set_wakeup_fd(-1)
                        for inherited in (listener, wakes, woken, client, *clients.values()):
                            inherited.close()
                        _become(files, given)
                        return
                    for file in files:
                        os.close(file)
                    clients[pid] = client
                    selector.register(client, selectors.EVENT_READ, pid)
                    client.sendall(b"%-16d" % pid)
                else:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(key.data, signal.SIGKILL)
                    selector.unregister(key.fileobj)


def _receive(client: socket.socket) -> tuple[list[int], Any]:
    head, files, _, _ = socket.recv_fds(client, 8, 3)
    size, body = int.from_bytes(head, "big"), b""
    while len(body) < size:
        body += client.recv(size - len(body))
    return files, marshal.loads(body)


def _become(files: list[int], given: Any) -> None:
    """Take over what the client has: standard streams, arguments, environment, directory."""
    arguments, environment, directory, ignores_ctrl_c = given
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    # The server's own streams may be a file's, with a position; these are as Python makes them.
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(1, "w", closefd=False)), line_buffering=os.isatty(1)
    )
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w", closefd=False)),
        line_buffering=True,
        errors="backslashreplace",
    )
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    on_ctrl_c = signal.SIG_IGN if ignores_ctrl_c else signal.default_int_handler
    signal.signal(signal.SIGINT, on_ctrl_c)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv = ["evalworker", *arguments]
    for change in os.environ.pop(PREPARE, "").split():
        module, _, function = change.partition(":")
        getattr(importlib.import_module(module), function)()


def _end(clients: Iterable[int]) -> None:
    for pid in list(clients):
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _report_ended(clients: dict[int, socket.socket], selector: selectors.BaseSelector) -> None:
    while clients:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        client = clients.pop(pid)
        with contextlib.suppress(OSError):  # the client was killed
            client.sendall(b"%-16d" % os.waitstatus_to_exitcode(status))
        with contextlib.suppress(KeyError):
            selector.unregister(client)
        client.close()


def run_command() -> None:
    """Run the command to its end, but for what takes longest: to tear down all that was imported.

    Threads have been joined by then, and all other exit handlers have run.
    """
    status = 1  # of an exception that nothing handles

    def end() -> None:
        with contextlib.suppress(OSError):  # or else the interpreter says so, as it does for users
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    atexit.register(end)  # the first to be registered is the last to run
    from worker.cli import main

    try:
        main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    status = 0


if __name__ == "__main__":
    preload()
    serve(sys.argv[1])
    run_command()
