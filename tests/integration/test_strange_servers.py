"""Servers that number, order, name or fail as none is documented to: nothing gets mixed up."""

from __future__ import annotations

import json
import random
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest

from tests.support.fake_judge_api import FakeJudgeAPI, questions
from tests.support.manual_replica import ManualReplica
from worker.domain.lifecycle import BatchState
from worker.store import batch_commands, concurrency_limit

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.store.database import Database

pytestmark = pytest.mark.one_database("sqlite")  # the servers do not depend on it

Items = list[dict[str, Any]]

READABLE: dict[str, Callable[[Items], Items]] = {
    "numbered from 1": lambda items: [{**item, "index": item["index"] + 1} for item in items],
    "numbered from 1, without inputs": lambda items: [
        {**item, "index": item["index"] + 1, "input": None} for item in items
    ],
    "numbered by text": lambda items: [{**item, "index": str(item["index"])} for item in items],
    "without numbers": lambda items: [{**item, "index": None} for item in items],
    "without numbers and inputs": lambda items: [
        {name: part for name, part in item.items() if name not in ("index", "input")}
        for item in items
    ],
    "numbered in another order": lambda items: [
        {**item, "index": index} for index, item in enumerate(reversed(items))
    ],
    "numbered in another order, with inputs as text": lambda items: [
        {**item, "index": index, "input": json.dumps(item["input"])}
        for index, item in enumerate(reversed(items))
    ],
    "numbered as item_index, without inputs": lambda items: [
        {**item, "index": None, "item_index": item["index"], "input": None}
        for item in reversed(items)
    ],
    "all with the same number": lambda items: [{**item, "index": 0} for item in items],
    "shuffled, in capitals": lambda items: [
        {**item, "index": None, "status": item["status"].upper()}
        for item in random.Random(1).sample(items, len(items))
    ],
}
UNREADABLE: dict[str, Callable[[Items], Items]] = {
    "inputs that were never sent": lambda items: [
        {**item, "input": {"request": f"another {item['index']}"}} for item in items
    ],
    "one input for all": lambda items: [{**item, "input": items[0]["input"]} for item in items],
    "no numbers, inputs, nor all items": lambda items: [
        {"status": item["status"], "evaluator_results": item.get("evaluator_results")}
        for item in items[1:]
    ],
    "numbers in words, without inputs": lambda items: [
        {**item, "index": f"{item['index']} of {len(items)}", "input": None}
        for item in reversed(items)
    ],
    "numbered from 1, without inputs and the last": lambda items: [
        {**item, "index": item["index"] + 1, "input": None} for item in items[:-1]
    ],
    "none at all": lambda _: [],
    "unknown words": lambda items: [{**item, "status": "adjudicated"} for item in items],
    "no words": lambda items: [{**item, "status": None} for item in items],
}


class StrangeJudgeAPI(FakeJudgeAPI):
    """Shows batches in the way of a strange server, and may fail after each effect."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: Callable[[Items], Items] = list
        self.poison: str | None = None  # such an input brings a 500, and starts nothing
        self.fails_after_effect = False  # each POST is taken, and answered 502
        self.lists_new = True
        self.is_away = False  # each POST is answered 503, and starts nothing
        self.forbidden: str | None = None  # a firewall answers such an input with 403
        self.forbids_in_json = False  # as the API itself would
        self.refuses: dict[str, int] = {}  # of "list" and "status": answered with this status code

    def execution(self, batch: Any) -> dict[str, Any]:
        execution = super().execution(batch)
        return {**execution, "items": self.shown(execution["items"])}

    def accept(self, request: httpx.Request) -> httpx.Response:
        if self.is_away:
            return httpx.Response(503, text="away")
        inputs = json.loads(request.content)["inputs"]
        if self.poison is not None and any(given["request"] == self.poison for given in inputs):
            return httpx.Response(500, json={"detail": "out of tokens"})
        if self.forbidden is not None and any(
            given["request"] == self.forbidden for given in inputs
        ):
            if self.forbids_in_json:
                return httpx.Response(403, json={"code": "budget_spent"})
            return httpx.Response(403, text="<title>Attention Required!</title>")
        taken = super().accept(request)
        return httpx.Response(502, text="bad gateway") if self.fails_after_effect else taken

    def list(self, request: httpx.Request) -> httpx.Response:
        if "list" in self.refuses:
            return httpx.Response(self.refuses["list"], text="no")
        return super().list(request)

    def show(self, request: httpx.Request) -> httpx.Response:
        if "status" in self.refuses:
            return httpx.Response(self.refuses["status"], text="no")
        return super().show(request)

    def is_listed(self, batch: Any) -> bool:
        return self.lists_new


@pytest.fixture
def remote() -> StrangeJudgeAPI:
    return StrangeJudgeAPI()


@pytest.fixture
def replica(database: Database, remote: StrangeJudgeAPI) -> ManualReplica:
    return ManualReplica(database, remote)


def run(replica: ManualReplica, rounds: int) -> None:
    for _ in range(rounds):
        replica.step()
        replica.pass_time()


# --- whose results are these? -------------------------------------------------------------------


@pytest.mark.parametrize("shown", READABLE.values(), ids=READABLE.keys())
def test_every_result_gets_to_its_own_input(
    replica: ManualReplica, remote: StrangeJudgeAPI, shown: Callable[[Items], Items]
) -> None:
    remote.shown = shown
    replica.enqueue(questions(12))
    replica.finish()
    assert replica.one("SELECT count(*) FROM eval_scores") == 12
    assert replica.every_result_is_at_its_own_input()
    assert remote.posts() == 1


@pytest.mark.parametrize("shown", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_is_put_on_hold_and_not_billed_again(
    replica: ManualReplica, remote: StrangeJudgeAPI, shown: Callable[[Items], Items]
) -> None:
    remote.shown = shown
    replica.enqueue(questions(3))
    run(replica, 8)
    assert replica.states() == ["held"]
    assert "its results cannot be read" in replica.batches()[0].error
    assert replica.one("SELECT count(*) FROM eval_scores") == 0
    assert remote.posts() == 1

    remote.shown = list  # the server was mended
    held = replica.one("SELECT id FROM eval_batches")
    resolve(replica, held, resubmit=False)
    replica.finish()
    assert replica.every_result_is_at_its_own_input()
    assert remote.posts() == 1


def test_a_person_may_send_again_what_could_not_be_read(
    replica: ManualReplica, remote: StrangeJudgeAPI
) -> None:
    remote.shown = UNREADABLE["one input for all"]
    replica.enqueue(questions(3))
    run(replica, 8)
    remote.shown = list
    became = resolve(replica, replica.one("SELECT id FROM eval_batches"), resubmit=True)
    assert became is BatchState.LOST
    replica.finish()
    assert replica.states() == ["lost", "finished"]
    assert replica.one("SELECT completed FROM eval_job_progress") == 3


def resolve(replica: ManualReplica, batch_id: Any, *, resubmit: bool) -> BatchState | None:
    """What a person does with a batch on hold."""
    chosen = batch_id if isinstance(batch_id, UUID) else UUID(batch_id)
    return replica.database.run(partial(batch_commands.resolve, batch_id=chosen, resubmit=resubmit))


# --- what did it say? ---------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["Cancelled", "canceled", "EXPIRED", "timed_out"])
def test_a_batch_that_was_given_up_ends_and_nothing_is_sent_again(
    replica: ManualReplica, remote: StrangeJudgeAPI, word: str
) -> None:
    remote.end = word
    remote.shown = lambda items: [
        item if item["index"] == 1 else {**item, "status": "pending"} for item in items
    ]
    replica.enqueue(questions(3))
    replica.finish()
    assert replica.one("SELECT completed, failed FROM eval_job_progress") == (1, 2)
    assert word.lower() in replica.one("SELECT error FROM eval_items WHERE item_index = 0")
    assert remote.posts() == 1


def test_a_batch_whose_word_nobody_knows_is_put_on_hold_and_not_given_up(
    replica: ManualReplica, remote: StrangeJudgeAPI
) -> None:
    remote.end = "archived"
    replica.enqueue(questions(3))
    run(replica, 3)
    replica.pass_time(seconds=4000)
    replica.step()
    assert replica.states() == ["held"]
    assert "'archived'" in replica.batches()[0].error
    assert remote.posts() == 1


# --- did it take the batch? ---------------------------------------------------------------------


@pytest.mark.parametrize("has_list", [True, False])
def test_a_batch_is_never_submitted_more_often_than_the_limit(
    replica: ManualReplica, remote: StrangeJudgeAPI, has_list: bool
) -> None:
    replica.enqueue(["served"])
    replica.finish()
    remote.fails_after_effect, remote.has_list, remote.lists_new = True, has_list, False
    replica.enqueue(["question"])
    run(replica, 40)
    assert replica.states() == ["finished", "held"]
    assert "502" in replica.batches()[1].error
    assert len(remote.inputs()) == 1 + 3


@pytest.mark.parametrize("status", [200, 403, 406, 500])
def test_a_list_that_cannot_be_read_stops_nothing_else_and_the_batch_is_held_in_the_end(
    database: Database, remote: StrangeJudgeAPI, status: int
) -> None:
    replica = ManualReplica(database, remote, batch_timeout=0.0)
    remote.refuses["list"] = status
    remote.next_answer(remote.accept_and_lose)
    replica.enqueue(["in doubt"])
    replica.step()
    for number in range(12):
        replica.pass_time()
        replica.enqueue([f"question {number}"])
        run(replica, 2)
        assert replica.rows("SELECT 1 FROM eval_gates WHERE closed_at IS NOT NULL") == []
    assert replica.states() == ["held"] + ["finished"] * 12
    error = replica.batches()[0].error
    assert error.startswith("the list cannot be read: ")
    assert f"{status}: no" in error
    assert remote.posts() == 1 + 12


def test_a_refused_key_still_stops_everything_where_the_list_says_so(
    replica: ManualReplica, remote: StrangeJudgeAPI
) -> None:
    replica.enqueue(["served"])
    replica.finish()
    remote.refuses["list"] = 401
    remote.next_answer(remote.accept_and_lose)
    replica.enqueue(["in doubt"])
    run(replica, 2)
    assert replica.one("SELECT scope FROM eval_gates WHERE closed_at IS NOT NULL") == "api"


def test_a_batch_whose_status_may_never_be_read_is_held_and_not_sent_again(
    database: Database, remote: StrangeJudgeAPI
) -> None:
    replica = ManualReplica(database, remote, batch_timeout=0.0)
    remote.refuses["status"] = 403
    replica.enqueue(["question"])
    run(replica, 10)
    assert replica.states() == ["submitted"]
    run(replica, 2)
    assert replica.batches() == [("held", "its status may not be read: 403: no")]
    assert remote.posts() == 1


def test_a_batch_whose_results_never_arrive_whole_is_held_and_not_sent_again(
    database: Database, remote: StrangeJudgeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_slow(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("20 s are over", request=request)

    replica = ManualReplica(database, remote, batch_timeout=0.0)
    monkeypatch.setattr(remote, "show", too_slow)
    replica.enqueue(["question"])
    run(replica, 12)
    reason = "its results cannot be read: ReadTimeout: 20 s are over"
    assert replica.batches() == [("held", reason)]
    assert remote.posts() == 1


def test_a_batch_in_doubt_leaves_its_inputs_fewer_attempts(
    database: Database, remote: StrangeJudgeAPI
) -> None:
    replica = ManualReplica(database, remote, max_item_attempts=2)
    replica.enqueue(["served"])
    replica.finish()
    remote.fails_after_effect, remote.has_list = True, False
    replica.enqueue(["fail this"])
    replica.step()
    remote.fails_after_effect = False
    replica.finish()
    assert replica.one("SELECT attempts FROM eval_items WHERE status = 'failed'") == 2
    assert len(remote.inputs()) == 1 + 2


@pytest.mark.parametrize("others", [0, 5])
def test_an_input_that_brings_a_server_error_fails_alone(
    database: Database, remote: StrangeJudgeAPI, others: int
) -> None:
    replica = ManualReplica(database, remote)
    remote.poison = "question 5"
    replica.enqueue(questions(8))
    for number in range(12):
        if number < others:
            replica.enqueue([f"other {number}"])
        run(replica, 5)
    replica.finish()
    assert replica.one("SELECT item_index FROM eval_items WHERE status <> 'completed'") == 5
    assert "out of tokens" in replica.one("SELECT error FROM eval_items WHERE status = 'failed'")
    assert len(remote.inputs()) == 7 + others


def test_a_person_who_sends_a_failing_batch_again_sends_its_halves(
    database: Database, remote: StrangeJudgeAPI
) -> None:
    """Sent as a whole, it would only fail again, and all of its inputs with it."""
    replica = ManualReplica(database, remote, max_item_attempts=2)
    remote.poison = "question 5"
    replica.enqueue(questions(8))
    run(replica, 12)
    assert replica.states() == ["held"]
    assert remote.posts() == 2
    held = replica.one("SELECT id FROM eval_batches")
    assert resolve(replica, held, resubmit=True) is BatchState.REFUSED
    assert replica.states() == ["refused", "planned", "planned"]
    replica.finish()
    assert replica.one("SELECT item_index FROM eval_items WHERE status <> 'completed'") == 5
    assert "out of tokens" in replica.one("SELECT error FROM eval_items WHERE status = 'failed'")
    assert len(remote.inputs()) == 7


def test_an_outage_is_not_blamed_on_any_input(
    replica: ManualReplica, remote: StrangeJudgeAPI
) -> None:
    for number in range(3):
        replica.enqueue([f"question {number}"], tags=[str(number)])
    remote.is_away = True
    run(replica, 20)
    assert "refused" not in replica.states()
    assert replica.one("SELECT count(*) FROM eval_items WHERE status = 'failed'") == 0
    remote.is_away = False
    for held in replica.rows("SELECT id FROM eval_batches WHERE state = 'held'"):
        resolve(replica, held.id, resubmit=True)
    replica.finish()
    assert replica.one("SELECT count(*) FROM eval_items WHERE status = 'completed'") == 3


def test_an_input_that_a_firewall_refuses_lets_the_others_try_before_it(
    replica: ManualReplica, remote: StrangeJudgeAPI
) -> None:
    remote.forbidden = "forbidden"
    for request in ("forbidden", "a", "b", "c"):
        replica.enqueue([request], tags=[request])
    replica.step()
    replica.step()
    assert remote.posts() == 1
    (gate,) = replica.rows("SELECT scope, reason FROM eval_gates")
    assert gate == ("judge:judge", "403: Attention Required!")
    waiting = replica.rows("SELECT failures FROM eval_batches ORDER BY due_at")
    assert [batch.failures for batch in waiting] == [0, 0, 0, 1]


def test_an_input_that_a_firewall_refuses_fails_alone_while_others_pass(
    replica: ManualReplica, remote: StrangeJudgeAPI
) -> None:
    remote.forbidden = "forbidden"
    replica.enqueue(["a", "b", "forbidden", "c"])
    for number in range(20):
        replica.enqueue(["other"], tags=[str(number)])
        run(replica, 1)
    replica.finish()
    failed = replica.rows("SELECT item_index, error FROM eval_items WHERE status = 'failed'")
    assert failed == [(2, "403: Attention Required!")]
    assert replica.one("SELECT count(*) FROM eval_items WHERE status = 'completed'") == 23


def test_where_no_other_batch_is_left_only_the_input_that_a_firewall_refuses_waits(
    replica: ManualReplica, remote: StrangeJudgeAPI
) -> None:
    remote.forbidden = "forbidden"
    replica.enqueue(["a", "b", "c", "forbidden"])
    run(replica, 20)
    assert replica.rows("SELECT item_index FROM eval_items WHERE status = 'processing'") == [(3,)]
    assert replica.one("SELECT count(*) FROM eval_items WHERE status = 'completed'") == 3


def test_no_input_is_blamed_while_the_judge_refuses_all(
    replica: ManualReplica, remote: StrangeJudgeAPI
) -> None:
    replica.enqueue(["before"])
    run(replica, 3)
    remote.forbidden = "later"
    for number in range(3):
        replica.enqueue(["later"], tags=[str(number)])
    run(replica, 10)
    assert replica.one("SELECT count(*) FROM eval_items WHERE status = 'failed'") == 0
    remote.forbidden = None
    replica.finish()
    assert replica.one("SELECT count(*) FROM eval_items WHERE status = 'completed'") == 4


def test_no_input_is_blamed_for_a_403_of_the_api_itself(
    replica: ManualReplica, remote: StrangeJudgeAPI
) -> None:
    remote.forbidden, remote.forbids_in_json = "forbidden", True
    replica.enqueue(["forbidden", "a"])
    for number in range(10):
        replica.enqueue(["other"], tags=[str(number)])
        run(replica, 1)
    assert replica.one("SELECT count(*) FROM eval_items WHERE status = 'failed'") == 0
    assert "refused" not in replica.states()
    remote.forbidden = None
    replica.finish()
    assert replica.one("SELECT count(*) FROM eval_items WHERE status = 'completed'") == 12


def test_batches_in_doubt_never_take_the_last_slot(
    replica: ManualReplica, remote: StrangeJudgeAPI
) -> None:
    replica.enqueue(["in doubt"], tags=["1"])
    remote.next_answer(lambda _: httpx.Response(503, text="away"))
    replica.step()
    assert replica.states() == ["unknown"]
    replica.database.run(concurrency_limit.lower_limit)  # to one
    replica.enqueue(["question"], tags=["2"])
    replica.step()
    assert replica.states() == ["unknown", "submitted"]
