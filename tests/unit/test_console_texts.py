"""Texts of strangers are shown for what they are: escaped, with nothing hidden or reordered."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.console.charts import Bar, histogram, progress_bar
from worker.console.hostile_text import beginning, marked, visible, weight
from worker.console.judged_text import MAX_PRODUCT, as_markdown, difference
from worker.console.parameters import Parameters
from worker.console.problems import PageProblem
from worker.console.renderer import load_templates, template_environment
from worker.console.text_views import MAX_MARKDOWN

HIDDEN = [
    *("\x00", "\x07", "\x1b", "\x7f", "\x9b", "\r", "\u00ad", "\u061c", "\u200b", "\u200e"),
    *("\u2028", "\u202a", "\u202e", "\u2066", "\u2069", "\u2064", "\ufeff", "\ufff9", "\ud800"),
    *("\u3164", "\U000e0041", "\U000e0100", "\U000e01ef"),
]
KEPT = [
    "\n",
    "\t",
    " ",
    "\u3000",
    "\u200c",
    "\u200d",
    "é",
    "日",
    "👩\u200d🚀",
    "❤\ufe0f",
    "ﷺ",
    "\u0301",
]


@pytest.mark.parametrize("character", HIDDEN, ids=ascii)
def test_a_hidden_character_is_shown_by_its_name(character: str) -> None:
    name = f"U+{ord(character):04X}"
    assert visible(f"a{character}b") == f"a⟦{name}⟧b"
    shown = marked(f"a{character}b")
    assert character not in shown
    assert f">{name}</span>" in shown


def test_equal_hidden_characters_side_by_side_are_one_mark() -> None:
    assert visible("a\u200b\u200b\u200b\u202eb") == "a⟦U+200B \N{MULTIPLICATION SIGN}3⟧⟦U+202E⟧b"
    million = marked("\u200b" * 1_000_000)
    assert million.endswith(">U+200B \N{MULTIPLICATION SIGN}1,000,000</span>")
    assert million.count("<span") == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x" * 200, 100),
        ("x" * 100, 100),
        ("\u200b\u2060" * 50, 2),
        ("x\u200b" * 50, 2 + 1),  # the second mark would be too long
        ("xx" + "\u200b" * 200, 100),
        ("\u200b" + "x" * 99, 1 + 50),
        ("日" * 200, 100),
        ("\r\n" * 60, 50),
    ],
)
def test_the_beginning_of_a_text_is_short_on_a_page(text: str, shown: int) -> None:
    part = beginning(text, 100)
    assert len(part) == shown
    assert text.replace("\r\n", "\n").startswith(part)
    assert weight(part) <= 100


@pytest.mark.parametrize("character", KEPT, ids=ascii)
def test_what_writing_needs_stays(character: str) -> None:
    assert visible(character) == character
    assert marked(character) == character


@given(st.text())
def test_every_text_can_be_shown_and_encoded(text: str) -> None:
    for shown in (visible(text), marked(text), as_markdown(text)):
        shown.encode("utf-8")  # no half of a surrogate is left
    assert "<" not in re.sub(r"</?span[^<>]*>", "", marked(text))


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![i](http://evil.example/x.png)",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        "<http://e/?'onclick=alert(1)>",
        '[x](http://e "t\\" onclick=\\"alert(1)")',
        "```<script>\n<script>alert(1)</script>\n```",
        "`<script>`",
        "    <script>",
        "<!-- --><iframe src=//evil.example>",
        "&lt;script&gt;",
        "| <b>a</b> |\n|---|\n| <script> |",
    ],
)
def test_markdown_passes_no_markup_image_or_script_through(text: str) -> None:
    html = as_markdown(text)
    tags = set(re.findall(r"<(/?\w+)", html))
    assert not tags & {"script", "img", "iframe", "b"}
    for tag in re.findall(r"<[^>]*>", html):
        assert not re.search(r"\son\w+=", re.sub(r'"[^"]*"', '""', tag)), tag
    assert not re.search(r'href="(?!http)', html)


@pytest.mark.parametrize(
    "part", ["[", "![", "a*", "*a_", "a**b", "_ a", "x|y\n", "> ", "- ", "<a ", "`a``"]
)
def test_the_worst_markdown_takes_no_longer_than_a_page_may(part: str) -> None:
    text = ("a|b\n-|-\n" + part * MAX_MARKDOWN)[:MAX_MARKDOWN]
    began = time.process_time()
    as_markdown(text)
    assert time.process_time() - began < 2


def test_markdown_is_markdown() -> None:
    html = as_markdown("# T\n\n**b** [l](https://example.com)\n\n- one\n\n| a |\n|---|\n| 1 |")
    for part in ("<h1>T</h1>", "<strong>b</strong>", "<li>one</li>", "<td>1</td>"):
        assert part in html
    assert 'rel="noreferrer noopener nofollow"' in html


def test_a_running_console_keeps_the_templates_that_it_started_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load_templates()
    environment = template_environment()
    assert environment.loader is not None
    monkeypatch.setattr(environment.loader, "get_source", None)
    for name in ("jobs.html", "base.html", "macros.html"):
        environment.get_template(name)


def test_a_difference_marks_words_and_keeps_every_other() -> None:
    changed = difference("one <two> three", "one four three")
    assert changed == "one <del>&lt;two&gt;</del><ins>four</ins> three"
    assert difference("same", "same") == "same"


@given(st.lists(st.sampled_from("ab ")), st.lists(st.sampled_from("abc ")))
def test_a_difference_contains_both_texts_whole(before: list[str], after: list[str]) -> None:
    shown = str(difference("".join(before), "".join(after)))
    given_back = re.sub("<del>.*?</del>", "", shown)
    expected_back = re.sub("<ins>.*?</ins>", "", shown)
    assert re.sub("</?ins>", "", given_back) == "".join(after)
    assert re.sub("</?del>", "", expected_back) == "".join(before)


@pytest.mark.parametrize("other", ["v{} ", "x a ", "a "])
def test_texts_without_a_common_word_take_no_longer_than_others(other: str) -> None:
    expected = "".join("a " if "a" in other else f"w{n} " for n in range(3_000))
    began = time.process_time()
    shown = difference(expected, "".join(other.format(n) for n in range(3_000)))
    assert shown is not None
    assert time.process_time() - began < 2


def test_a_difference_of_long_texts_is_by_line_and_of_endless_ones_not_at_all() -> None:
    words = " ".join(f"w{n}" for n in range(3_000))
    lines = f"{words}\nlast"
    assert "<ins>" in str(difference(lines, lines.replace("last", "end")))
    endless = "x\n" * (int(MAX_PRODUCT**0.5) + 10)
    began = time.monotonic()
    assert difference(endless, endless) is None
    assert time.monotonic() - began < 1


def test_charts_name_their_parts_and_escape_them() -> None:
    chart = histogram([Bar(3, "0 to 1", "/a?b=1&c=<"), Bar(0, "none", "/"), Bar(1, "x")], "<s>")
    assert 'aria-label="&lt;s&gt;"' in chart
    assert 'href="/a?b=1&amp;c=&lt;" aria-label="0 to 1: 3"' in chart
    assert chart.count("<a ") == 1
    assert "style=" not in chart
    assert 'aria-label="1 of 4 completed, 2 failed, 0 cancelled"' in progress_bar(1, 2, 0, 4)
    assert "0 of 0" in progress_bar(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("read", "value"),
    [
        ("integer", "-1"),
        ("integer", "²"),
        ("integer", "1e3"),
        ("integer", "2147483648"),
        ("number", "nan"),
        ("number", "inf"),
        ("number", "one"),
        ("uuid", "1"),
        ("moment", "tomorrow"),
        ("moment", "0001-01-01T00:00+23:00"),
        ("pair", "a"),
        ("pair", "=b"),
    ],
)
def test_a_wrong_parameter_is_named(read: str, value: str) -> None:
    with pytest.raises(PageProblem, match="name=") as caught:
        getattr(Parameters([("name", value)]), read)("name")
    assert caught.value.status == 400


def test_an_empty_parameter_is_absent() -> None:
    given = Parameters([("a", ""), ("b", " "), ("c", "1"), ("c", "2")])
    assert given.as_dict() == {"c": "2"}
    assert given.every("c") == ["1", "2"]
    assert given.number("a") is None
    assert Parameters([("reason", "one\r\ntwo\n")]).text("reason") == "one\ntwo\n"
    assert given.uuid("b") is None
