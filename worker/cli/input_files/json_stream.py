"""Read JSON values one after the other from a file of any size, one at a time in memory.

The standard library decodes them, from a buffer that grows until it holds a whole value. Known
streaming decoders either replace half a surrogate in silence and know no line numbers (ijson with
yajl), or are much slower.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from typing import Any, BinaryIO

from worker.cli.input_files.json_object import raw_decode

_CHUNK = 64 * 1024
_LONGEST_WORD = len("-Infinity")
_SPACE = re.compile(r"[ \t\n\ufeff]*")


class JsonStream:
    """A position in a JSON text. Any line end counts as one line."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        self._file = file
        utf8 = codecs.getincrementaldecoder("utf-8")()
        self._decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
        self._text = ""
        self._at = 0
        self._line_start = 0  # of the current line in `_text`; negative if it is there no more
        self._is_complete = False  # the rest of the file is in `_text`
        self.line = 1  # of the next value, after `peek`

    @property
    def has_mac_line_ends(self) -> bool:
        """Return whether lines end with a carriage return alone, as far as the file was read."""
        return self._decoder.newlines == "\r"

    def peek(self) -> str:
        """Skip white space, and return the character that follows; "" at the end of the file."""
        while True:
            self._advance(_SPACE.match(self._text, self._at).end())  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if self._is_complete:
                return ""
            self._read_more()

    def skip(self, *expected: str) -> str:
        """Skip one of these characters, and return it; raises `JSONDecodeError` at another."""
        found = self.peek()
        if found not in expected or not found:
            wanted = " or ".join(f"'{character}'" for character in expected)
            raise json.JSONDecodeError(f"Expecting {wanted}", self._text, self._at)
        self._advance(self._at + 1)
        return found

    def value(self) -> Any:
        """Decode the value that begins here; raises as `json.loads` does."""
        self.peek()
        while True:
            try:
                value, end = raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._is_complete or not self._may_be_unfinished(error):
                    raise
            else:
                if end < len(self._text) or self._is_complete:
                    self._advance(end)
                    return value
            self._read_more()  # a number at the end of the buffer may continue, too

    def line_of(self, error: json.JSONDecodeError) -> int:
        """Return the line of an error that was just raised."""
        return self.line + self._text.count("\n", self._at, error.pos)

    def column_of(self, error: json.JSONDecodeError) -> int:
        """Return the column of an error that was just raised, on its line."""
        newline = self._text.rfind("\n", self._at, error.pos)
        return error.pos - (self._line_start - 1 if newline < 0 else newline)

    def _may_be_unfinished(self, error: json.JSONDecodeError) -> bool:
        return error.msg.startswith("Unterminated string") or (
            error.pos > len(self._text) - _LONGEST_WORD
        )

    def _advance(self, end: int) -> None:
        if newlines := self._text.count("\n", self._at, end):
            self.line += newlines
            self._line_start = self._text.rfind("\n", self._at, end) + 1
        self._at = end

    def _read_more(self) -> None:
        """Read at least as much as there is, so that a long value is decoded a few times only."""
        rest = self._text[self._at :]
        chunk = self._file.read(max(_CHUNK, len(rest)))
        self._is_complete = not chunk
        self._text = rest + self._decoder.decode(chunk, final=not chunk)
        self._line_start -= self._at
        self._at = 0
