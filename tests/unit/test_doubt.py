"""How a batch goes on that was submitted, but is nowhere to be found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from worker.domain.doubt import Continuation, Doubt, continue_in_doubt

LOST = Doubt(
    item_count=100,
    attempts=1,
    has_list=True,
    is_repeated_error=False,
    others_pass=False,
    is_alone=False,
)
REPEATED = {"attempts": 2, "is_repeated_error": True}


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, Continuation.SUBMIT_AGAIN),
        ({"attempts": 3}, Continuation.HOLD),
        ({"attempts": 4, "has_list": False}, Continuation.HOLD),
        (REPEATED, Continuation.SUBMIT_AGAIN),
        (REPEATED | {"others_pass": True}, Continuation.BLAME),
        (REPEATED | {"others_pass": True, "item_count": 1}, Continuation.SUBMIT_AGAIN),
        (REPEATED | {"others_pass": True, "attempts": 3, "item_count": 1}, Continuation.BLAME),
        (REPEATED | {"others_pass": True, "has_list": False}, Continuation.SPLIT),
        (REPEATED | {"others_pass": True, "has_list": False, "attempts": 3}, Continuation.HOLD),
        (REPEATED | {"is_alone": True}, Continuation.SPLIT),
        (REPEATED | {"is_alone": True, "item_count": 1}, Continuation.SUBMIT_AGAIN),
        (REPEATED | {"is_alone": True, "attempts": 3}, Continuation.HOLD),
    ],
)
def test_a_batch_in_doubt_goes_on(known: dict[str, Any], expected: Continuation) -> None:
    assert continue_in_doubt(replace(LOST, **known), max_attempts=3) is expected
