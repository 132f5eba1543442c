"""Decompress files, which are recognised by their first bytes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import BinaryIO, NamedTuple, cast


class Compression(NamedTuple):
    """A way in which files are compressed."""

    name: str
    signature: re.Pattern[bytes]
    suffixes: tuple[str, ...]
    open: Callable[[BinaryIO], BinaryIO]


class NeedsExtra(Exception):
    """A compression needs an optional package that is not installed."""


def _open_zstd(file: BinaryIO) -> BinaryIO:
    """Open it by pyarrow, which the extra `parquet` installs."""
    try:
        arrow = import_module("pyarrow")
    except ModuleNotFoundError:
        raise NeedsExtra(
            "is compressed by zstd, which needs pip install 'evalworker[parquet]'; "
            "or: zstd -dc FILE | evalworker enqueue - …"
        ) from None
    return cast("BinaryIO", arrow.CompressedInputStream(file, "zstd"))


def _open_gzip(file: BinaryIO) -> BinaryIO:
    return cast("BinaryIO", gzip.GzipFile(fileobj=file))


def _open_bz2(file: BinaryIO) -> BinaryIO:
    return cast("BinaryIO", bz2.BZ2File(file))


def _open_lzma(file: BinaryIO) -> BinaryIO:
    return cast("BinaryIO", lzma.LZMAFile(file))


COMPRESSIONS = (
    Compression("gzip", re.compile(rb"\x1f\x8b"), (".gz", ".gzip"), _open_gzip),
    Compression("bzip2", re.compile(rb"BZh[1-9]1AY&SY"), (".bz2",), _open_bz2),
    Compression("xz", re.compile(rb"\xfd7zXZ\x00"), (".xz",), _open_lzma),
    Compression("zstd", re.compile(rb"\x28\xb5\x2f\xfd"), (".zst", ".zstd"), _open_zstd),
)

DAMAGED = (EOFError, OSError, lzma.LZMAError, zlib.error)
"""What reading compressed data raises that is cut off or damaged."""


def compression_of(head: bytes) -> Compression | None:
    """Return how a file is compressed, by its first bytes."""
    return next((one for one in COMPRESSIONS if one.signature.match(head)), None)
