"""The state file of a judge service: what is deleted in time, and what stays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from worker.judge import ledger as module
from worker.judge.evaluator_files import Evaluator, Objective
from worker.judge.judges import Judge, Measured, Prompted
from worker.judge.ledger import Account, Ledger, NewItem, Sample
from worker.judge.model_score import ModelScore

DAY = 86_400.0
MEASURED = Judge(name="measured", evaluators=[Measured(measure="Non-empty")])
ASKING = Judge(
    name="asking",
    evaluators=[
        Prompted(
            evaluator=Evaluator(
                name="nice",
                objective=Objective(intent="How nice is it?"),
                scoring_criteria="How nice is {{ response }}?",
            ),
            alias="local",
            model="m",
        )
    ],
)
INPUT = {"response": "well"}
ACCOUNT = Account("asking", "nice", "local")
SAMPLE = Sample(ModelScore(0.5, None), None)


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(clock: Clock) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(clock=clock)) as ledger:
        yield ledger


def add(ledger: Ledger, batch_id: str, judge: Judge = MEASURED, count: int = 2) -> None:
    ledger.add(batch_id, judge, [], [NewItem(INPUT, "log", judge.measure(INPUT))] * count)


def test_finished_batches_go_after_so_many_days_and_open_ones_stay(
    ledger: Ledger, clock: Clock
) -> None:
    add(ledger, "old")
    add(ledger, "open", ASKING)
    clock.now += 29 * DAY
    add(ledger, "new")
    assert not ledger.delete_expired(30)
    clock.now += 2 * DAY
    assert ledger.delete_expired(30)
    assert not ledger.delete_expired(30)
    assert [batch.id for batch in ledger.page(limit=9)] == ["new", "open"]
    assert ledger.totals() == (2, 4, 2)
    assert len(ledger.waiting()) == 2


def test_samples_go_so_many_days_after_their_last_use_and_usage_stays(
    ledger: Ledger, clock: Clock
) -> None:
    for prompt in ("unused", "used"):
        ledger.add_sample(prompt, 0, SAMPLE, ACCOUNT, tokens=(1, 1), cost=1.0)
    clock.now += 20 * DAY
    ledger.count_hit("used", 0, ACCOUNT)
    clock.now += 20 * DAY
    assert ledger.delete_expired(30)
    assert ledger.sample("unused", 0) is None
    assert ledger.sample("used", 0) == SAMPLE
    (usage,) = ledger.usage(by=("model",))
    assert (usage["calls"], usage["cache_hits"], usage["cost"]) == (2, 1, 2.0)


def test_what_is_old_is_deleted_in_small_pieces(
    ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCHES_AT_A_TIME", 2)
    for number in range(5):
        add(ledger, str(number))
    clock.now += 31 * DAY
    left = []
    while ledger.delete_expired(30):
        left.append(ledger.totals()[0])
    assert left == [3, 1, 0]


def test_an_item_ends_with_the_last_of_its_evaluations(ledger: Ledger) -> None:
    judge = ASKING.model_copy(update={"evaluators": [*MEASURED.evaluators, *ASKING.evaluators * 2]})
    waiting = ledger.add("b", judge, ["t"], [NewItem(INPUT, "log", judge.measure(INPUT))])
    assert [evaluation.position for evaluation in waiting] == [1, 2]
    ledger.end(waiting[1], ACCOUNT, {"score": 1}, None)
    assert [item.status for item in ledger.items(_batch(ledger))] == ["processing"]
    ledger.end(waiting[0], ACCOUNT, {"score": 0}, None)
    ledger.end(waiting[0], ACCOUNT, None, "too late")
    (item,) = ledger.items(_batch(ledger))
    assert [result and result["score"] for result in item.results] == [1.0, 0, 1]
    assert (item.status, _batch(ledger).completed, ledger.waiting()) == ("completed", 1, [])
    assert ledger.input_of(waiting[0]) is None


def _batch(ledger: Ledger) -> module.StoredBatch:
    batch = ledger.get("b")
    assert batch is not None
    return batch
