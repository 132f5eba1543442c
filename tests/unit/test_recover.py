"""Which of the remote's batches is taken for the one whose answer was lost."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from worker.pipeline.recover import Absent, Indistinct, LostSubmission, Match, Unclear, search
from worker.remote import JudgeAPI

BEGAN = datetime(2026, 11, 23, 12, tzinfo=UTC)
TWIN = [{"request": "the same"}]


def batch(name: str, *, after: float, inputs: Any = TWIN, **more: Any) -> dict[str, Any]:
    """A batch at the remote, created so many seconds after the attempt began."""
    items = [{"index": n, "status": "pending", "input": given} for n, given in enumerate(inputs)]
    return {
        "batch_execution_id": name,
        "status": "pending",
        "total_count": len(items),
        "created_at": (BEGAN + timedelta(seconds=after)).isoformat(),
        "items": items,
        **more,
    }


def found_among(
    *batches: dict[str, Any],
    page_size: int = 100,
    taken: Collection[str] = (),
    seconds: float = 0,
    own_tag: str | None = "evalworker:1",
    next_url: str | None = None,
) -> object:
    """The outcome of a search in these, listed newest first; each request takes `seconds`."""
    by_name = {given["batch_execution_id"]: given for given in batches}
    newest_first = sorted(batches, key=lambda given: given["created_at"], reverse=True)
    now = [0.0]

    def answer(request: httpx.Request) -> httpx.Response:
        now[0] += seconds
        name = request.url.path.split("/")[-2]
        if name in by_name:
            return httpx.Response(200, json=by_name[name])
        start = int(request.url.params.get("cursor", 0))
        rows = [{**given, "items": None} for given in newest_first[start : start + page_size]]
        more = start + page_size < len(newest_first)
        following = f"https://judge.test/?cursor={start + page_size}" if more else next_url
        return httpx.Response(200, json={"next": following, "results": rows})

    with JudgeAPI(
        base_url="https://judge.test",
        api_key="key",
        transport=httpx.MockTransport(answer),
        spacing=0.0,
    ) as api:
        sent = LostSubmission("judge", own_tag, TWIN, BEGAN)
        return search(api, sent, lambda ids: set(taken) & set(ids), monotonic=lambda: now[0])


@pytest.mark.parametrize("page_size", [1, 100])
def test_of_twins_the_oldest_is_taken_on_whatever_page_it_is(page_size: int) -> None:
    """A later attempt looks no further back than to its own beginning: the newer is left to it."""
    outcome = found_among(
        batch("own", after=1), batch("of a later twin", after=370), page_size=page_size
    )
    assert outcome == Match("own")


def test_a_younger_twin_is_not_taken_while_an_older_batch_may_be_the_one() -> None:
    """Else the attempt to which the younger one belongs would find nothing, and be sent again."""
    hidden = batch("older", after=1, status="completed", inputs=[{}])
    assert isinstance(found_among(hidden, batch("younger", after=370)), Indistinct)
    assert isinstance(found_among(hidden | {"status": "pending"}, batch("y", after=370)), Unclear)


def test_what_belongs_to_another_batch_is_not_taken() -> None:
    found = found_among(batch("theirs", after=1), batch("ours", after=2), taken=["theirs"])
    assert found == Match("ours")


def test_a_tag_says_more_than_age_and_content() -> None:
    tagged = batch("ours", after=2, tags=["evalworker:1"])
    assert found_among(batch("theirs", after=1, tags=["evalworker:2"]), tagged) == Match("ours")


def test_what_bears_another_batchs_tag_is_not_taken_by_one_that_was_sent_without() -> None:
    theirs = batch("theirs", after=1, tags=["evalworker:2"])
    ours = batch("ours", after=2, tags=["nightly"])
    assert found_among(theirs, ours, own_tag=None) == Match("ours")


@pytest.mark.parametrize("tags", [[], [{"name": "evalworker:1"}]], ids=["none", "objects"])
def test_tags_that_are_not_there_say_nothing(tags: list[Any]) -> None:
    other = batch("other", after=1, inputs=[{"request": "another"}], tags=tags)
    assert found_among(other, batch("ours", after=2, tags=tags)) == Match("ours")


def test_tags_are_compared_without_case() -> None:
    assert found_among(batch("ours", after=1, tags=["EvalWorker:1"])) == Match("ours")
    theirs = batch("theirs", after=1, tags=["EvalWorker:2"])
    assert found_among(theirs, own_tag=None) == Absent()


def test_where_the_list_cannot_be_read_as_a_whole_what_is_not_shown_is_not_absent() -> None:
    unreadable = batch("unreadable", after=1, status=None)
    assert found_among(unreadable) == Unclear("1 row of the list cannot be read")
    assert found_among(unreadable, batch("ours", after=2)) == Match("ours")
    assert isinstance(
        found_among(batch("on page 1", after=9, inputs=[{}]), next_url="?page=2"), Unclear
    )


@pytest.mark.parametrize(
    "other",
    [
        batch("of before", after=-300),
        batch("of other content", after=1, inputs=[{"request": "another"}]),
        batch("of other size", after=1, inputs=TWIN * 2),
    ],
    ids=lambda given: given["batch_execution_id"],
)
def test_what_cannot_be_ours_is_not_taken(other: dict[str, Any]) -> None:
    assert found_among(other) == Absent()


def test_a_search_ends_before_its_lease_does() -> None:
    outcome = found_among(*(batch(f"b{n}", after=n) for n in range(9)), page_size=1, seconds=5.0)
    assert isinstance(outcome, Unclear)
