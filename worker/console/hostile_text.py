"""Show texts that nobody vouches for: whatever would hide or reorder characters becomes visible.

Judged texts may contain control characters, bidirectional overrides that make a line read
differently from what it says ("Trojan Source", CVE-2021-42574), and invisible characters that only
a model reads. HTML is escaped by the templates, always.
"""

from __future__ import annotations

import re
import unicodedata

from markupsafe import Markup, escape

# Control characters but tab and line feed; format characters but the joiners that Persian, Indic
# scripts and emoji need; line separators; lone surrogates; variation selectors that carry data.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
_LINE_ENDS = re.compile("\r\n")


def visible(text: str) -> str:
    """Return the text with a name in place of each hidden character, such as `⟦U+202E⟧`."""
    return _HIDDEN.sub(lambda found: f"⟦{_code(found[0])}⟧", _LINE_ENDS.sub("\n", text))


def marked(text: str) -> Markup:
    """Return escaped HTML in which each hidden character is a marked name with its meaning."""
    text = _LINE_ENDS.sub("\n", text)
    parts: list[str] = []
    end = 0
    for found in _HIDDEN.finditer(text):
        parts += (escape(text[end : found.start()]), _mark(found[0]))
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def clip(text: str | None, limit: int = 160) -> str:
    """Return the beginning of a text on one line."""
    line = " ".join((text or "")[: limit * 4].split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _mark(character: str) -> Markup:
    meaning = unicodedata.name(character, "control character").lower()
    return Markup('<span class="hidden-char" title="{}">{}</span>').format(
        meaning, _code(character)
    )


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"
