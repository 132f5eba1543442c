"""Validation: each offence of an input begins with its path."""

from __future__ import annotations

import json
import types
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.validation import (
    MAX_DEPTH,
    given_offences,
    judge_offences,
    metadata_offences,
    offences_of,
    tag_offences,
)
from worker.wire.inputs import MAX_TEXT


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


CONTENT = {"request": "q"}
GOOD: list[dict[str, Any]] = [
    {"request": "2 + 2?", "response": "4", "expected_output": "4"},
    {"request": " ", "response": "4"},
    {"request": "q", "response": "", "contexts": None},
    {"request": None, "turns": [{"role": "user"}]},
    {"turns": [{"role": "user", "content": "hi", "a_newer_field": 1}]},
    CONTENT | {"contexts": ["a", "b"], "file_ids": ["f"]},
    CONTENT | {"functions": [{"name": "f", "parameters": {"a": [1, 2.5, True, None]}}]},
    {"request": "ünïcödé 🎉", "user_id": "x" * 255},
    CONTENT | {"expected_output": "x" * MAX_TEXT},
    CONTENT | {"functions": [{"a": nested(MAX_DEPTH - 2)}]},
]


@pytest.mark.parametrize("value", GOOD, ids=lambda value: ",".join(value))
def test_a_good_input_has_no_offence(value: dict[str, Any]) -> None:
    assert offences_of(value) == []


def test_any_mapping_is_an_object() -> None:
    assert offences_of(types.MappingProxyType({"request": "q"})) == []


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({}, "nothing"),
        ({"question": "2 + 2?", "answer": "4"}, "question, answer"),
        ({"reqest": "x", 7: "y"}, "reqest (did you mean 'request'?), 7"),
        ({"request": "", "response": " \n\t"}, "request (empty), response (empty)"),
        ({"request": None, "expected_output": "4"}, "request (null), expected_output"),
        ({"turns": [], "contexts": ["c"]}, "turns (empty), contexts"),
        ({"x" * 500: 1}, "x" * 40),
        ({f"c{n}": n for n in range(99)}, ", ".join([*(f"c{n}" for n in range(12)), "…"])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_input_with_nothing_to_evaluate_is_refused_naming_what_is_there(
    value: dict[Any, Any], found: str
) -> None:
    assert offences_of(value) == [f"needs `request`, `response` or `turns`; found: {found}"]


def test_what_else_is_wrong_with_an_input_without_content_is_named_as_well() -> None:
    assert len(offences_of({"question": "q", "contexts": [""], "user_id": 5})) == 3


@pytest.mark.parametrize(
    ("metadata", "offence"),
    [
        ({"id": [1, {"é": None}], "at": 1.5, "big": 2**63}, None),
        (None, None),
        ("Q-17", "metadata must be an object (a dict), not a string"),
        ([1], "metadata must be an object (a dict), not a list"),
        (types.MappingProxyType({}), "metadata must be an object (a dict), not mappingproxy"),
        ({"a": "\x00"}, "metadata.a contains a NUL character, which cannot be stored"),
        ({"a": ["\udfff"]}, "metadata.a[0] contains an unpaired surrogate, which cannot be stored"),
        ({"a": float("inf")}, "metadata.a is not a finite number, which JSON does not allow"),
        ({"a": {None: 1}}, "metadata.a must have strings as keys, not null"),
        ({"a": {1, 2}}, "metadata.a must be a JSON value, not set"),
        ({"a": uuid4()}, "metadata.a must be a JSON value, not UUID"),
        ({"a": Decimal(1)}, "metadata.a must be a JSON value, not Decimal"),
        ({"a": date(2026, 1, 1)}, "metadata.a must be a JSON value, not date"),
        ({"a": b"x"}, "metadata.a must be a JSON value, not bytes"),
        ({"a": types.MappingProxyType({})}, "metadata.a must be a JSON value, not mappingproxy"),
        ({"a": 10**5000}, "metadata.a has too many digits to be stored"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_metadata_is_json_that_both_databases_store(metadata: object, offence: str | None) -> None:
    expected = [] if offence is None else [offence]
    assert metadata_offences(metadata) == expected
    assert given_offences(CONTENT | {"metadata": metadata}) == expected


def test_metadata_is_no_field_of_what_is_sent() -> None:
    assert offences_of(CONTENT | {"metadata": {}}) == [
        "metadata is not an input field of the judge API"
    ]


@pytest.mark.parametrize(
    ("value", "offence"),
    [
        (["request"], "must be an object, not a list"),
        ("text", "must be an object, not a string"),
        (None, "must be an object, not null"),
        ({"reqest": "x"}, "reqest is not an input field of the judge API; did you mean 'request'?"),
        ({"zzz": "x"}, "zzz is not an input field of the judge API"),
        ({"request": 3}, "request must be a string, not a number"),
        ({"request": True}, "request must be a string, not a boolean"),
        ({"contexts": "one"}, "contexts must be a list, not a string"),
        ({"contexts": ["a", ""]}, "contexts[1] must not be empty"),
        ({"contexts": [{"a": 1}]}, "contexts[0] must be a string, not an object"),
        ({"functions": ["f"]}, "functions[0] must be an object, not a string"),
        ({"turns": [{"content": "x"}]}, "turns[0].role is missing"),
        ({"user_id": "x" * 256}, "user_id is too long: 256 characters, 255 are allowed"),
        ({"request": "a\x00b"}, "request contains a NUL character, which cannot be stored"),
        (
            {"contexts": ["\ud83d"]},
            "contexts[0] contains an unpaired surrogate, which cannot be stored",
        ),
        (
            {"functions": [{"a\x00": 1}]},
            "functions[0].'a\\x00' contains a NUL character, which cannot be stored",
        ),
        (
            {"functions": [{"a": float("nan")}]},
            "functions[0].a is not a finite number, which JSON does not allow",
        ),
        (
            {"functions": [{"at": datetime.now(UTC)}]},
            "functions[0].at must be a JSON value, not datetime",
        ),
        ({"functions": [{"a": {1: 2}}]}, "functions[0].a must have strings as keys, not a number"),
        ({1: "x"}, "[1] is not a field name: it must be a string"),
        ({"functions": [{"a": 10**5000}]}, "functions[0].a has too many digits to be stored"),
        (
            {"turns": [{"role": "user", "extra": ("\x00",)}]},
            "turns[0].extra[0] contains a NUL character, which cannot be stored",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_offence_names_its_path(value: object, offence: str) -> None:
    given = CONTENT | value if isinstance(value, dict) else value
    assert offences_of(given) == [offence]


def test_all_offences_of_an_input_are_named() -> None:
    assert len(offences_of({"request": 1, "response": 2, "contexts": [""], "zzz": 4})) == 4


@pytest.mark.parametrize("levels", [MAX_DEPTH, 900, 100_000])
def test_deep_nesting_is_an_offence_and_never_a_crash(levels: int) -> None:
    (offence,) = offences_of(CONTENT | {"functions": [{"a": nested(levels)}]})
    assert "nested too deeply" in offence
    assert len(offence) < 200


def test_a_value_that_contains_itself_is_an_offence() -> None:
    loop: dict[str, Any] = {}
    loop["itself"] = loop
    (offence,) = offences_of(CONTENT | {"functions": [loop]})
    assert "nested too deeply" in offence


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.binary(max_size=2),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=3), parts),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["request", "contexts", "functions", "turns"]), anything))
def test_an_input_without_offences_can_be_stored_and_sent(value: dict[str, Any]) -> None:
    if not offences_of(value):
        written = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        assert b"\\u0000" not in written


@pytest.mark.parametrize("tags", [[], ["a"], ("a", "b"), {"a"}])
def test_good_tags_have_no_offence(tags: object) -> None:
    assert tag_offences(tags) == []


@pytest.mark.parametrize(
    ("tags", "offence"),
    [
        ("nightly", "tags must be a list of strings, not a string"),
        (["a", 1], "tags[1] must be a string, not a number"),
        ([""], "tags[0] must not be empty"),
        (["a\x00"], "tags[0] contains a NUL character, which cannot be stored"),
    ],
)
def test_an_offence_names_the_tag(tags: object, offence: str) -> None:
    assert tag_offences(tags) == [offence]


@pytest.mark.parametrize("judge_id", ["", "  ", None, 7, "a\x00"])
def test_a_judge_without_a_usable_id_is_an_offence(judge_id: object) -> None:
    (offence,) = judge_offences(judge_id)
    assert offence.startswith("judge_id ")
