"""Open what the user names as a file that can be read twice, with its text as UTF-8.

Pipes, compressed files and other encodings are copied to a temporary file, which disappears with
the process.
"""

from __future__ import annotations

import codecs
import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path, PurePath
from typing import BinaryIO, cast

from worker.cli.input_files.charset import NotText, as_utf8, marked_encoding, unmarked_utf16
from worker.cli.input_files.complaints import refusal
from worker.cli.input_files.compression import DAMAGED, Compression, NeedsExtra, compression_of
from worker.cli.input_files.signatures import HEAD, PARQUET, foreign_kind
from worker.errors import EvalWorkerError

STANDARD_INPUT = Path("-")
_CHUNK = 256 * 1024
_CTRL_Z = b"\x1a"


@dataclass(frozen=True, slots=True)
class Source:
    """An open file. Its text is UTF-8, perhaps with a byte order mark."""

    name: str
    file: BinaryIO
    suffix: str  # of the name without `.gz`: .csv, .jsonl
    is_parquet: bool
    details: tuple[str, ...]  # what was undone to read it: its compression and encoding
    notes: tuple[str, ...]  # what is not taken from it


@contextmanager
def recoded(source: Source, encoding: str) -> Iterator[Source]:
    """Read the text of a source in another encoding than it was opened with."""
    with ExitStack() as stack:
        source.file.seek(0)
        copy = _Copies(stack, source.name).of(_recoded(source.file, encoding, source.name))
        yield replace(source, file=copy)


@contextmanager
def open_source(path: Path, encoding: str | None = None) -> Iterator[Source]:
    """Open a file, or standard input for `-`; raises `InvalidInputs` if it cannot be used."""
    name = "standard input" if path == STANDARD_INPUT else str(path)
    with ExitStack() as stack:
        with refused_if_unreadable(name):
            source = _prepared(path, name, encoding, stack)
        yield source


@contextmanager
def refused_if_unreadable(name: str) -> Iterator[None]:
    """Refuse a file that the system cannot read in the block, or not to its end."""
    try:
        yield
    except OSError as error:
        raise refusal(name, f"cannot be read: {error.strerror or error}") from None


def _prepared(path: Path, name: str, encoding: str | None, stack: ExitStack) -> Source:
    details: list[str] = []
    notes: list[str] = []
    copies = _Copies(stack, name)
    file = _open(path, name, stack)
    if not _can_be_read_twice(file):
        file = copies.of(_received(cast("BufferedReader", file)))
    suffix = path.suffix.lower()
    if compression := compression_of(_head(file)):
        details.append(compression.name)
        suffix = _inner_suffix(path, compression)
        file = copies.of(_decompressed(compression, file, name))
    head = _head(file)
    is_parquet = head.startswith(PARQUET)
    if not is_parquet:
        chosen = _encoding(head, encoding)
        if chosen is None and (kind := foreign_kind(head, file)):
            raise refusal(name, kind)
        if chosen is not None:
            details.append(chosen)
            file = copies.of(_recoded(file, chosen, name))
        if _ends_with_ctrl_z(file):
            notes.append("left out the Ctrl-Z (end-of-file mark of MS-DOS) at its end")
            file = _without_ctrl_z(copies.of(_chunks(file)))
    file.seek(0)
    return Source(name, file, suffix, is_parquet, tuple(details), tuple(notes))


def _open(path: Path, name: str, stack: ExitStack) -> BinaryIO:
    if path != STANDARD_INPUT:
        return stack.enter_context(path.open("rb"))
    if sys.stdin is None:
        raise refusal(name, "is closed")
    return cast("BinaryIO", sys.stdin.buffer)


def _can_be_read_twice(file: BinaryIO) -> bool:
    """Return whether it is a file on a disk, not a pipe or a terminal, and at its beginning."""
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.tell() == 0
    except OSError:
        return False


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    return head


def _inner_suffix(path: Path, compression: Compression) -> str:
    if path.suffix.lower() in compression.suffixes:
        return PurePath(path.stem).suffix.lower()
    return path.suffix.lower()


def _decompressed(compression: Compression, file: BinaryIO, name: str) -> Iterator[bytes]:
    try:
        yield from _chunks(compression.open(file))
    except NeedsExtra as error:
        raise refusal(name, str(error)) from None
    except DAMAGED as error:
        reason = f"its {compression.name} data is cut off or damaged ({error}): copy it again"
        raise refusal(name, reason) from None


def _encoding(head: bytes, given: str | None) -> str | None:
    """Return the encoding of a text, if it is not UTF-8."""
    told = marked_encoding(head) or unmarked_utf16(head)
    if given is None or (told and told.startswith(codecs.lookup(given).name)):
        return told  # `utf-16` does not say in which order its bytes are
    return given


def _recoded(file: BinaryIO, encoding: str, name: str) -> Iterator[bytes]:
    try:
        yield from as_utf8(file, encoding)
    except NotText as error:
        raise refusal(name, f"{error}: name another encoding by --encoding") from None


def _ends_with_ctrl_z(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    last = file.read(1)
    file.seek(0)
    return last == _CTRL_Z


def _without_ctrl_z(copy: BinaryIO) -> BinaryIO:
    while _ends_with_ctrl_z(copy):
        copy.truncate(copy.seek(-1, os.SEEK_END))
    return copy


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _received(pipe: BufferedReader) -> Iterator[bytes]:
    """Yield what comes. `read` would wait for a full chunk, and not notice a Ctrl-C meanwhile."""
    while chunk := pipe.read1(_CHUNK):
        yield chunk


class _Copies:
    """Make temporary files, which are closed with the source."""

    def __init__(self, stack: ExitStack, name: str) -> None:
        self.name = name
        self._stack = stack

    def of(self, chunks: Iterable[bytes]) -> BinaryIO:
        temporary = tempfile.TemporaryFile()  # noqa: SIM115 (closed by the stack)
        copy = cast("BinaryIO", self._stack.enter_context(temporary))
        for chunk in chunks:
            self._write(copy.write, chunk)
        self._write(lambda _: copy.flush(), b"")
        copy.seek(0)
        return copy

    def _write(self, write: Callable[[bytes], object], chunk: bytes) -> None:
        try:
            write(chunk)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            folder = tempfile.gettempdir()
            free = shutil.disk_usage(folder).free // 2**20
            raise EvalWorkerError(
                f"{self.name}: its copy does not fit in {folder} ({free} MB are free): "
                "set TMPDIR to a folder with more room"
            ) from None
