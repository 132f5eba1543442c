"""What judges and producers wrote is shown on terminals, and never obeyed by them."""

from __future__ import annotations

import io
import sys
import unicodedata

import pytest
from rich.text import Text

from worker.cli.context import TerminalConsole
from worker.cli.presentation import obstacles
from worker.cli.tables import Column, make_table
from worker.domain.terminal_text import escape_controls

HARMFUL = [
    "\x1b[2J",  # clears the screen
    "\x1b]0;title\x07",
    "\r",
    "\b",
    "\x7f",
    "\x9b31m",  # the same as an escape sequence, by one C1 character
    "\x85",
    "\u200b",
    "\u200f",
    "\u202e",
    "\u2066",
    "\u2028",
    "\u2029",
    "\ufeff",
    "\u3164",
    "\U000e0041",
    "\ud800",
]


@pytest.mark.parametrize("harmful", HARMFUL, ids=ascii)
def test_what_a_terminal_would_obey_or_hide_is_escaped(harmful: str) -> None:
    shown = escape_controls(f"before{harmful}after")
    assert shown.isprintable()
    assert shown.startswith("before\\")
    assert shown.endswith("after")
    assert harmful not in shown


def test_every_control_and_format_character_and_separator_of_unicode_is_escaped() -> None:
    every = (chr(number) for number in range(sys.maxunicode + 1))
    harmful = [c for c in every if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert len(harmful) > 2000
    assert all(escape_controls(character) != character for character in harmful)


@pytest.mark.parametrize("text", ["", "naïve", "漢字　かな", "עברית", "😀 ❤️", "a\u00a0b", "\\x1b"])
def test_texts_of_every_script_stay_as_they_are(text: str) -> None:
    assert escape_controls(text) == text


def test_line_ends_are_kept_where_lines_are_wanted() -> None:
    assert escape_controls("a\nb\r\n") == "a\\nb\\r\\n"
    assert escape_controls("a\nb\r\n", keep="\n") == "a\nb\\r\n"


def printed(*things: object, markup: bool = True) -> str:
    console = TerminalConsole(file=io.StringIO(), width=500, force_terminal=True, color_system=None)
    console.print(*things, markup=markup)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("harmful", HARMFUL, ids=ascii)
def test_no_cell_no_heading_and_no_line_reaches_a_terminal_unescaped(harmful: str) -> None:
    table = make_table([Column(f"name{harmful}")], [[f"text{harmful}"]], 400)
    for written in (printed(table), printed(f"line{harmful}", markup=False)):
        assert harmful not in written.replace("\r\n", "\n")


@pytest.mark.parametrize("text", ["[red]", "[/]", ":smile:", "[link=file:///etc]x[/link]"])
def test_a_cell_and_a_heading_are_no_markup(text: str) -> None:
    written = printed(make_table([Column(text)], [[text]], 100))
    assert written.count(text) == 2


def test_a_reason_cannot_add_a_line_to_a_status() -> None:
    forged = "no\non hold: batch 1\u2028paused: everything\x1b[1A"
    lines = obstacles(
        {
            "paused": [{"judge_id": forged, "reason": forged, "since": None}],
            "waiting_for": [],
            "replicas": [],
            "in_doubt": [],
            "held": [{"id": "1", "item_count": 1, "judge_id": forged, "error": forged}],
        }
    )
    assert len(lines) == 2
    for line in lines:
        assert line.isprintable()
        assert Text(line).plain == line
