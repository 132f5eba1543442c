"""The digest of a job's content: equal for equal content, however it is handed over."""

from __future__ import annotations

import types
from typing import Any

import pytest

from worker.domain.content_digest import ContentDigest, can_be_compared

INPUTS: list[dict[str, Any]] = [
    {"request": str(n), "contexts": ["é"], "metadata": {"a": 1, "b": {"c": None, "d": 2}}}
    for n in range(120)
]


def digest(*parts: Any, judge_id: str = "j", tags: Any = ("a", "b")) -> str:
    found = ContentDigest(judge_id=judge_id, judge_version_id=None, tags=tags)
    for part in parts:
        found.add(part)
    return found.value()


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: reordered(value[name]) for name in reversed(value)}
    return value


@pytest.mark.parametrize(
    "parts",
    [
        [INPUTS[:1], INPUTS[1:70], INPUTS[70:]],
        [iter(INPUTS)],
        [[reordered(value) for value in INPUTS]],
        [[value | {"response": None} for value in INPUTS]],
        [[types.MappingProxyType(value) for value in INPUTS]],
    ],
    ids=["in parts", "from an iterator", "fields in another order", "with None", "as mappings"],
)
def test_equal_content_has_an_equal_digest(parts: list[Any]) -> None:
    assert digest(*parts) == digest(INPUTS)


@pytest.mark.parametrize(
    "other",
    [INPUTS[:-1], INPUTS[::-1], [*INPUTS, INPUTS[0]], [{**INPUTS[0], "user_id": "u"}, *INPUTS[1:]]],
    ids=["fewer", "in another order", "more", "with another field"],
)
def test_other_content_has_another_digest(other: list[Any]) -> None:
    assert digest(other) != digest(INPUTS)


def test_judge_and_tags_are_content_but_not_the_order_of_tags() -> None:
    assert digest(tags=["b", "a", "a"]) == digest() != digest(tags=["a"])
    assert digest(judge_id="k") != digest()


@pytest.mark.parametrize("stored", [None, "sql1:abc", ""])
def test_a_digest_of_another_kind_cannot_be_compared(stored: str | None) -> None:
    assert not can_be_compared(stored)
    assert can_be_compared(digest())
