"""Create files that only their owner can read: they hold what producers and judges wrote."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from worker.errors import EvalWorkerError

OWNER_ONLY = 0o600


def private_opener(path: str, flags: int) -> int:
    """Open a file for `open(…, opener=…)`; a new one is the owner's alone."""
    return os.open(path, flags, OWNER_ONLY)


def create_private_file(path: Path) -> None:
    """Create an empty file unless it exists. SQLite gives its `-wal` and `-shm` the same mode."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY))


@contextlib.contextmanager
def replacement_of(path: Path) -> Iterator[Path]:
    """Yield a file to write, which takes its place when it is complete; before, it ends in `.part`.

    Only its owner can read a new file. One that is replaced keeps its mode. A pipe or a terminal is
    written to as it is. Raises `EvalWorkerError` if it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            yield path
        else:
            with _part_of(path) as part:
                yield part
    except BrokenPipeError:
        raise  # whoever reads it has read enough
    except OSError as error:
        if error.errno is None:  # not the system's
            raise
        raise EvalWorkerError(f"cannot write {path}: {_obstacle(error, path.parent)}") from error


def _obstacle(error: OSError, folder: Path) -> str:
    if not folder.exists():
        return f"there is no folder {folder}; mkdir -p makes it"
    return error.strerror or str(error)


@contextlib.contextmanager
def _part_of(path: Path) -> Iterator[Path]:
    part = path.with_name(f"{path.name}.part")
    try:
        create_private_file(part)
        yield part
        if path.exists():
            shutil.copymode(path, part)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
