"""Prepare the texts of an input for its page: how each is shown, and how much of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from worker.console.hostile_text import marked
from worker.console.judged_text import as_markdown, difference
from worker.store.input_queries import InputDetail

VIEWS = ("text", "markdown", "difference")
MAX_SHOWN = 100_000  # characters; more would take browsers seconds
MAX_MARKDOWN = 20_000  # characters; the worst of them take a third of a second
TITLES = {"request": "Request", "response": "Response", "expected_output": "Expected output"}


@dataclass(frozen=True, slots=True)
class TextView:
    """A text as HTML; None if it was not given. `style` says how it is shown."""

    name: str
    title: str
    length: int
    html: Markup | None
    style: str = "plain"
    note: str | None = None


def views_for(given: InputDetail) -> list[str]:
    """Return how this input can be shown."""
    can_differ = bool(given.expected_output and given.response)
    return [view for view in VIEWS if view != "difference" or can_differ]


def text_views(given: InputDetail, view: str) -> Iterator[TextView]:
    """Yield a view of each text, in the order of a page."""
    for name, title in TITLES.items():
        text = getattr(given, name)
        if text is None:
            yield TextView(name, title, 0, None)
        elif view == "difference" and name == "response" and given.expected_output:
            yield _difference(name, text, given.expected_output)
        else:
            yield _whole(name, title, text, view)


def _whole(name: str, title: str, text: str, view: str) -> TextView:
    note = None
    most = MAX_MARKDOWN if view == "markdown" else MAX_SHOWN
    if len(text) > most:
        note = f"Only the first {most:,} characters are shown; the raw text has all."
    shown = text[:most]
    if view == "markdown":
        return TextView(name, title, len(text), as_markdown(shown), "markdown", note)
    return TextView(name, title, len(text), marked(shown), note=note)


def _difference(name: str, text: str, expected: str) -> TextView:
    title = "Response, with its difference from what was expected"
    found = None
    if max(len(text), len(expected)) <= MAX_SHOWN:
        found = difference(expected, text)
    if found is None:
        note = "The texts are too long for a difference."
        return TextView(name, "Response", len(text), marked(text[:MAX_SHOWN]), note=note)
    return TextView(name, title, len(text), found, "difference")
