"""Few large responses are in memory at a time, however many threads read some."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx

from tests.support.remote_clients import ID, api_with
from worker.remote import JudgeAPI
from worker.remote.response_budget import ResponseBudget

A_MOMENT = 0.1  # for a thread to do what it should not


def other_thread(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def take(budget: ResponseBudget, size: int) -> Callable[[], None]:
    def act() -> None:
        with budget.block():
            budget.take(size)

    return act


def test_a_response_that_does_not_fit_waits_until_another_is_recorded() -> None:
    budget = ResponseBudget(10)
    with budget.block():
        budget.take(6)
        thread = other_thread(take(budget, 5))
        thread.join(A_MOMENT)
        assert thread.is_alive()
    thread.join()


def test_responses_that_fit_wait_for_nobody() -> None:
    budget = ResponseBudget(10)
    with budget.block():
        budget.take(6)
        other_thread(take(budget, 4)).join()


def test_a_response_larger_than_the_budget_is_read_alone() -> None:
    budget = ResponseBudget(10)
    with budget.block():
        budget.take(50)
        thread = other_thread(take(budget, 1))
        thread.join(A_MOMENT)
        assert thread.is_alive()
    thread.join()


def test_whoever_has_read_one_page_does_not_wait_for_room_for_the_next() -> None:
    budget = ResponseBudget(10)
    with budget.block():
        budget.take(6)
        budget.take(6)


def test_nobody_waits_for_longer_than_a_lease_can_bear() -> None:
    budget = ResponseBudget(10, max_wait=0.0)
    with budget.block():
        budget.take(6)
        other_thread(take(budget, 6)).join()


def test_requests_outside_a_block_do_not_count() -> None:
    budget = ResponseBudget(10)
    budget.take(50)
    other_thread(take(budget, 6)).join()


def test_a_response_counts_against_the_budget_until_it_is_recorded() -> None:
    with api_with(httpx.Response(200, json={"batch_execution_id": ID, "status": "pending"})) as api:
        api.budget = ResponseBudget(10)
        reader = threading.Thread(target=read_in_block, args=(api,))
        with api.budget.block():
            api.status(ID)
            reader.start()
            reader.join(0.1)
            assert reader.is_alive()
        reader.join()


def read_in_block(api: JudgeAPI) -> None:
    with api.budget.block():
        api.status(ID)
