"""Show texts that nobody vouches for: whatever would hide or reorder characters becomes visible.

Judged texts may contain control characters, bidirectional overrides that make a line read
differently from what it says ("Trojan Source", CVE-2021-42574), and invisible characters that only
a model reads. HTML is escaped by the templates, always.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from markupsafe import Markup, escape

from worker.domain.terminal_text import is_printable

_NOT_ASCII = re.compile(r"[^\x20-\x7e\t\n]")
_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji need them
_DATA_CARRIERS = range(0xE0100, 0xE01F0)  # variation selectors that no script uses


def visible(text: str) -> str:
    """Return the text with a name in place of each hidden character, such as `⟦U+202E⟧`."""
    return "".join(
        plain + (f"⟦{_code(hidden)}⟧" if hidden else "") for plain, hidden in _parts(text)
    )


def marked(text: str) -> Markup:
    """Return escaped HTML in which each hidden character is a marked name with its meaning."""
    return Markup("").join(
        escape(plain) + (_mark(hidden) if hidden else "") for plain, hidden in _parts(text)
    )


def clip(text: str | None, limit: int = 160) -> str:
    """Return the beginning of a text on one line."""
    line = " ".join((text or "")[: limit * 4].split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """Split a text into pairs of what is plain and the hidden character after it."""
    text = text.replace("\r\n", "\n")
    end = 0
    for found in _NOT_ASCII.finditer(text):
        if _is_hidden(found[0]):
            yield text[end : found.start()], found[0]
            end = found.end()
    yield text[end:], ""


def _is_hidden(character: str) -> bool:
    if character in _JOINERS:
        return False
    return not is_printable(character) or ord(character) in _DATA_CARRIERS


def _mark(character: str) -> Markup:
    meaning = unicodedata.name(character, "control character").lower()
    return Markup('<span class="hidden-char" title="{}">{}</span>').format(
        meaning, _code(character)
    )


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"
