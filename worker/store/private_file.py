"""Create files that only their owner can read: they hold what producers and judges wrote."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

OWNER_ONLY = 0o600


def private_opener(path: str, flags: int) -> int:
    """Open a file for `open(…, opener=…)`; a new one is the owner's alone."""
    return os.open(path, flags, OWNER_ONLY)


def create_private_file(path: Path) -> None:
    """Create an empty file unless it exists. SQLite gives its `-wal` and `-shm` the same mode."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY))
