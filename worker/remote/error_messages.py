"""What went wrong, in one line and in the API's own words; never with the key in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from worker.remote.parsing import storable

MAX_REASON = 500  # characters
LOOKED_AT = 8 * MAX_REASON  # characters that are cleaned; the rest would not be shown
MAX_PARTS = 12  # field errors in one line
MAX_DEPTH = 8

_WORDS = ("detail", "title", "error", "message")  # the first that says something is taken
_LABELS = ("type", "status", "instance", "code")  # of a problem: nothing about this one


def one_line(text: str, secrets: Collection[str] = ()) -> str:
    """Without secrets, control characters and line ends; storable, and of bounded length."""
    # Hidden before the cut, which could leave half of a secret, and again after the cleaning,
    # which could make one whole.
    line = storable(_hidden(text, secrets)[:LOOKED_AT])
    line = "".join(letter for letter in " ".join(line.split()) if letter.isprintable())
    line = _hidden(line, secrets)
    return line if len(line) <= MAX_REASON else line[: MAX_REASON - 1] + "…"


def _hidden(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def words_of(body: object) -> str:
    """What an error's body says, or ''; `inputs[1].contexts: too few` for field errors."""
    if isinstance(body, dict):
        return "; ".join(islice(_said(body), MAX_PARTS))
    return "; ".join(islice(_field_errors(body, ""), MAX_PARTS))


def plain(text: str) -> str:
    """A body that is no JSON, such as a proxy's HTML page, without its markup."""
    return re.sub(r"<[^>]*>", " ", text)


def _said(body: Mapping[str, Any]) -> Iterator[str]:
    yield from _main_words(body)
    others = {name: part for name, part in body.items() if name not in _WORDS + _LABELS}
    yield from _field_errors(others, "")


def _main_words(body: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    for name in _WORDS:
        value = body.get(name)
        if isinstance(value, str) and value.strip():
            yield value
            return
        if isinstance(value, dict) and depth < MAX_DEPTH:
            nested = [*_main_words(value, depth + 1)] or [
                *islice(_field_errors(value, ""), MAX_PARTS)
            ]
        elif isinstance(value, list):
            nested = [*islice(_field_errors(value, ""), MAX_PARTS)]
        else:
            continue
        if nested:
            yield from nested
            return


def _field_errors(value: object, place: str, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        if value.strip():
            yield f"{place}: {value}" if place else value
    elif depth > MAX_DEPTH:
        return
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _field_errors(part, f"{place}.{name}" if place else str(name), depth + 1)
    elif isinstance(value, list):
        texts_only = all(isinstance(part, str) for part in value)
        for index, part in enumerate(value):
            where = place if texts_only else f"{place}[{index}]"
            yield from _field_errors(part, where, depth + 1)
