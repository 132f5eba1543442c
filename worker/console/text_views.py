"""Prepare the texts of an input for its page: how each is shown, and how much of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from markupsafe import Markup

from worker.console.hostile_text import beginning, marked, weight
from worker.console.judged_text import as_markdown, difference
from worker.store.input_queries import InputDetail, ResultRow

VIEWS = ("text", "markdown", "difference")
MAX_PAGE = 500_000  # characters of all texts together
MAX_SHOWN = 100_000  # characters of a text; more would take browsers seconds
MAX_MARKDOWN = 20_000  # characters; the worst of them take a third of a second
BOX_WEIGHT = 200  # characters that take a page as long as the box around a text
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


class ResultView(NamedTuple):
    """What an evaluator said about an input, with its texts as they are shown."""

    row: ResultRow
    justification: TextView
    extra: TextView


class PageBudget:
    """Divides the length of a page among its texts, in the order in which they ask."""

    def __init__(self) -> None:
        self._left = MAX_PAGE

    @property
    def is_spent(self) -> bool:
        return not self._left

    def take(self, text: str, most: int) -> tuple[str, str | None]:
        """Return how much of a text is shown, and a note unless that is all of it."""
        text = text.replace("\r\n", "\n")
        shown = beginning(text, min(most, self._left))
        self._left = max(0, self._left - BOX_WEIGHT - weight(shown))
        if len(shown) == len(text):
            return shown, None
        return shown, f"Only the first {len(shown):,} characters are shown."

    def view(self, name: str, title: str, text: str | None) -> TextView:
        """Show a text as it is."""
        if text is None:
            return TextView(name, title, 0, None)
        shown, note = self.take(text, MAX_SHOWN)
        return TextView(name, title, len(text), marked(shown), note=note)

    def json_view(self, name: str, title: str, value: object) -> TextView:
        """Show a value as JSON."""
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str) if value else None
        return self.view(name, title, text)


def views_for(given: InputDetail) -> list[str]:
    """Return how this input can be shown."""
    can_differ = bool(given.expected_output and given.response)
    return [view for view in VIEWS if view != "difference" or can_differ]


def text_views(budget: PageBudget, given: InputDetail, view: str) -> Iterator[TextView]:
    """Yield a view of each text, in the order of a page."""
    for name, title in TITLES.items():
        text = getattr(given, name)
        if text is None:
            yield TextView(name, title, 0, None)
        elif view == "difference" and name == "response" and given.expected_output:
            yield _difference(budget, name, text, given.expected_output)
        elif view == "markdown":
            yield _markdown(budget, name, title, text)
        else:
            yield budget.view(name, title, text)


def context_views(budget: PageBudget, contexts: object) -> Iterator[TextView]:
    """Yield a view of each context, and a note in place of those that the page has no room for."""
    given = contexts if isinstance(contexts, list) else []
    for number, context in enumerate(given, 1):
        if budget.is_spent:
            note = f"Contexts {number:,} to {len(given):,} are not shown."
            yield TextView("contexts", "Other contexts", 0, None, note=note)
            return
        yield budget.view(f"context-{number}", f"Context {number}", str(context))


def result_views(budget: PageBudget, results: Iterable[ResultRow]) -> list[ResultView]:
    """Return what each evaluator said, with its texts as they are shown."""
    return [
        ResultView(
            row,
            budget.view("justification", "Justification", row.justification or None),
            budget.json_view("extra", "What else the API sent", row.extra),
        )
        for row in results
    ]


def _markdown(budget: PageBudget, name: str, title: str, text: str) -> TextView:
    shown, note = budget.take(text, MAX_MARKDOWN)
    return TextView(name, title, len(text), as_markdown(shown), "markdown", note)


def _difference(budget: PageBudget, name: str, text: str, expected: str) -> TextView:
    found = None
    if _is_short(text) and _is_short(expected):
        found = difference(expected, text)
    if found is None:
        note = "The texts are too long for a difference."
        return replace(budget.view(name, "Response", text), note=note)
    title = "Response, with its difference from what was expected"
    budget.take(text, MAX_SHOWN)
    return TextView(name, title, len(text), found, "difference")


def _is_short(text: str) -> bool:
    return len(text) <= MAX_SHOWN and weight(text) <= MAX_SHOWN
