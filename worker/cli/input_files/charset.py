"""Tell the encoding of a text file, and write it again as UTF-8.

A byte order mark names UTF-8, UTF-16 and UTF-32. Other encodings have nothing to tell them by:
they are guessed, shown, and used when `--encoding` says so.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from charset_normalizer import from_bytes

from worker.cli.input_files.fields import alias_field
from worker.cli.input_files.signatures import NO_TEXT
from worker.domain.phrases import one_line

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHUNK = 256 * 1024
_GUESSED_BYTES = 64 * 1024
_SHOWN = 60  # characters of a line
_NOT_ASCII = re.compile(rb"[\x80-\xff]+")
_FEW_INVALID = 4  # valid characters for each invalid one
_WESTERN_RUN = 1.6  # bytes that are not ASCII in a row, on average
_DIVIDING = ',;\t"{\n'
_BETWEEN_NAMES = re.compile(r"[\"{}:,;|\t\r\n]")
_FREQUENT = ["cp1252", "cp1251", "cp1253", "cp1255", "cp1256", "koi8_r", "cp932", "euc_jp"]
_FREQUENT += ["gb18030", "big5", "cp949", "cp874"]
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x19\x1c-\x1f]")


class NotText(ValueError):
    """A text is not in the expected encoding."""


def marked_encoding(head: bytes) -> str | None:
    """Return the encoding that a byte order mark names, other than UTF-8."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def unmarked_utf16(head: bytes) -> str | None:
    """Return which UTF-16 a text without a mark is in: every other byte is zero."""
    even, odd = head[0::2], head[1::2]
    if len(head) < 4:
        return None
    if odd.count(0) > 0.6 * len(odd) and even.count(0) < 0.1 * len(even):
        return "utf-16-le"
    if even.count(0) > 0.6 * len(even) and odd.count(0) < 0.1 * len(odd):
        return "utf-16-be"
    return None


def _utf16_with_few_zeros(head: bytes) -> str | None:
    """Return which UTF-16 a text may be in of which little is ASCII, apart from what divides it."""
    pairs = Counter(head[at : at + 2] for at in range(0, len(head) - 1, 2))
    counts = {
        encoding: sum(pairs[mark.encode(encoding)] for mark in _DIVIDING)
        for encoding in ("utf-16-le", "utf-16-be")
    }
    guess = max(counts, key=lambda encoding: counts[encoding])
    if not counts[guess]:
        return None
    try:
        codecs.getincrementaldecoder(guess)().decode(head)
    except UnicodeDecodeError:
        return None
    return guess


def _beginning(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(_GUESSED_BYTES)


def is_text_encoding(name: str) -> bool:
    """Return whether Python knows an encoding of texts by this name."""
    try:
        b"a".decode(name)
    except LookupError:
        return False
    except UnicodeError:  # half a character
        return True
    return True


def as_utf8(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Yield a text as UTF-8; raises `NotText` with the line that is in another encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    lines = 1
    while True:
        chunk = file.read(_CHUNK)
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeError as error:
            before = chunk[: error.start] if isinstance(error, UnicodeDecodeError) else b""
            lines += before.decode(encoding, "replace").count("\n")
            raise NotText(f"line {lines}: is not {encoding}: {_reason(error)}") from None
        lines += text.count("\n")
        # Half a surrogate cannot be stored; the check of the inputs names it.
        yield text.encode("utf-8", "surrogatepass")
        if not chunk:
            return


def _reason(error: UnicodeError) -> str:
    return error.reason if isinstance(error, UnicodeDecodeError) else str(error)


@dataclass(frozen=True, slots=True)
class EncodingOffence:
    """Where a file is not UTF-8, and the encoding that it may be in."""

    text: str
    guess: str | None = None


def encoding_offence(file: BinaryIO) -> EncodingOffence:
    """Return where a file is not UTF-8, with a sample in the encoding that it may be in."""
    if guess := _utf16_with_few_zeros(_beginning(file)):
        return EncodingOffence(f"may be UTF-16: add --encoding {guess}", guess)
    file.seek(0)
    valid = 0  # runs of characters that are not ASCII
    for number, line in enumerate(file, 1):
        try:
            line.decode()
            valid += len(_NOT_ASCII.findall(line))
        except UnicodeDecodeError as error:
            if _CONTROL.search(line[:_GUESSED_BYTES]):
                return EncodingOffence(f"line {number}: {NO_TEXT}")
            where = f"line {number}: is not UTF-8 (byte {error.start + 1})"
            sample = line + file.read(_GUESSED_BYTES)
            if _is_mostly_utf8(sample, valid):
                return EncodingOffence(f"{where}, but most of the text is: correct this line")
            before = max(0, error.start - _GUESSED_BYTES)
            guess = encoding_of_names(sample) if number == 1 else None
            guess = guess or guessed_encoding(sample[before:][: 2 * _GUESSED_BYTES])
            return EncodingOffence(where + _advice(line, error.start, guess), guess)
    return EncodingOffence("is not UTF-8")


def _is_mostly_utf8(sample: bytes, valid_before: int) -> bool:
    """Return whether a text is UTF-8 with some damage; a few characters fit it by chance."""
    invalid = sample.decode("utf-8", "replace").count("\ufffd")
    valid = len(_NOT_ASCII.findall(sample)) - invalid
    return valid_before + valid > _FEW_INVALID * invalid


def _advice(line: bytes, start: int, guess: str | None) -> str:
    if guess is None:
        return ": name its encoding by --encoding, such as cp1252"
    others = " or ".join(name for name in ("cp1252", "cp1250", "cp1254") if name != guess)
    part = line[max(0, start - _SHOWN // 2) :][: 4 * _SHOWN].decode(guess, "replace")
    return (
        f". Read as {guess}: {one_line(part, _SHOWN)}\n"
        f"if that is right, add --encoding {guess}; if not, name another, such as {others}"
    )


def encoding_of_names(sample: bytes) -> str | None:
    """Return the encoding in which the first line has known names of columns.

    A guess by statistics needs more text than a line, and these names are known.
    """
    line = sample.splitlines()[0]
    for encoding in (*_FREQUENT, "cp1250", "cp1254", "mac_roman"):
        names = _BETWEEN_NAMES.split(line.decode(encoding, "replace"))
        if any(not name.isascii() and alias_field(name) for name in names):
            return encoding
    return None


def guessed_encoding(sample: bytes) -> str | None:
    """Return the likely encoding of a text that is not UTF-8.

    In western languages, most letters are ASCII, and the others stand alone. Many encodings fit
    them; Windows' own is by far the most frequent, and line ends of old Macs come with theirs.
    """
    others = _NOT_ASCII.findall(sample)
    if sum(map(len, others)) < _WESTERN_RUN * len(others):
        has_mac_line_ends = b"\r" in sample and b"\n" not in sample
        return "mac_roman" if has_mac_line_ends else "cp1252"
    best = from_bytes(sample, cp_isolation=_FREQUENT).best()
    return None if best is None else best.encoding
