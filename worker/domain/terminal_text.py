"""Escape what a terminal would obey, hide or reorder instead of showing it.

Names, reasons and tags come from judges and producers, and operators read them on terminals. Escape
sequences could write anywhere on the screen, and marks of direction could make a text look like
another one.
"""

from __future__ import annotations

import unicodedata

# They are letters and marks to Unicode, and invisible: fillers of Hangul and Khmer, and a joiner.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")


def escape_controls(text: str, *, keep: str = "") -> str:
    r"""Replace each character that a terminal does not show by its escape, such as `\x1b`.

    These are control characters (C0 and C1), marks of direction, zero-width and other format
    characters, line and paragraph separators, halves of surrogates, and code points without a
    meaning of their own. The characters in `keep` stay.
    """
    if is_printable(text):
        return text
    return "".join(
        character if character in keep or is_printable(character) else _escape(character)
        for character in text
    )


def is_printable(text: str) -> bool:
    """Return whether a terminal shows every character of this text as itself."""
    if text.isprintable():
        return _INVISIBLE.isdisjoint(text)
    return all(
        # Spaces such as U+3000, which Python calls not printable, are shown.
        (character.isprintable() and character not in _INVISIBLE)
        or unicodedata.category(character) == "Zs"
        for character in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
