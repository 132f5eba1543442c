"""Show texts that nobody vouches for: whatever would hide or reorder characters becomes visible.

Judged texts may contain control characters, bidirectional overrides that make a line read
differently from what it says ("Trojan Source", CVE-2021-42574), and invisible characters that only
a model reads. HTML is escaped by the templates, always.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from markupsafe import Markup, escape

from worker.domain.terminal_text import is_printable

MARK_WEIGHT = 50  # characters of plain text that take a page as long as one mark
_NOT_ASCII = re.compile(r"([^\x20-\x7e\t\n])\1*")  # equal ones become one mark
_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji need them
_DATA_CARRIERS = range(0xE0100, 0xE01F0)  # variation selectors that no script uses


def visible(text: str) -> str:
    """Return the text with a name in place of hidden characters, such as `⟦U+202E⟧`."""
    return "".join(
        plain + (f"⟦{_code(hidden)}⟧" if hidden else "") for plain, hidden in _parts(text)
    )


def marked(text: str) -> Markup:
    """Return escaped HTML in which hidden characters are a marked name with its meaning."""
    html = (escape(plain) + (_mark(hidden) if hidden else "") for plain, hidden in _parts(text))
    return Markup("").join(html)


def weight(text: str) -> int:
    """Return how long a text is on a page, in characters: marks are longer than what they mark."""
    return sum(len(plain) + MARK_WEIGHT * bool(hidden) for plain, hidden in _parts(text))


def beginning(text: str, most: int) -> str:
    """Return as much of a text as has at most this weight, and this many characters."""
    text = text[:most].replace("\r\n", "\n")
    end = 0
    for plain, hidden in _parts(text):
        end += min(len(plain), most)
        most -= len(plain) + MARK_WEIGHT * bool(hidden)
        if most < 0:
            return text[:end]
        end += len(hidden)
    return text


def clip(text: str | None, limit: int = 160) -> str:
    """Return the beginning of a text on one line."""
    line = " ".join((text or "")[: limit * 4].split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """Split a text into pairs of what is plain and the equal hidden characters after it."""
    text = text.replace("\r\n", "\n")
    end = 0
    for found in _NOT_ASCII.finditer(text):
        if _is_hidden(found[1]):
            yield text[end : found.start()], found[0]
            end = found.end()
    yield text[end:], ""


def _is_hidden(character: str) -> bool:
    if character in _JOINERS:
        return False
    return not is_printable(character) or ord(character) in _DATA_CARRIERS


@lru_cache(1_000)
def _mark(characters: str) -> Markup:
    meaning = unicodedata.name(characters[0], "control character").lower()
    return Markup('<span class="hidden-char" title="{}">{}</span>').format(
        meaning, _code(characters)
    )


def _code(characters: str) -> str:
    count = f" \N{MULTIPLICATION SIGN}{len(characters):,}" if len(characters) > 1 else ""
    return f"U+{ord(characters[0]):04X}{count}"
