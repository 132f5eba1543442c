"""A notice is sent again until its receiver has it, or until its tries are used up."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.notices import states, tell
from tests.support.processes import environment, evalworker, started
from tests.support.webhook_receiver import SECRET, WebhookReceiver, answer_with
from worker.domain.backoff import NOTICE_WAITS
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import running_sandbox
from worker.store import job_queries, webhook_deliveries
from worker.webhooks.client import NO_SECRET, WebhookClient

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler

    from worker.store.database import Database


def test_a_receiver_that_fails_is_told_again_under_the_same_id_in_the_same_words(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    receiver.answers = [answer_with(500), answer_with(503), answer_with(429)]
    replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    tell(replica, rounds=5)
    assert len(receiver.ids) == 4
    assert len(set(receiver.ids)) == 1
    assert all(payload == receiver.payloads[0] for payload in receiver.payloads)
    assert states(replica) == [("sent", 4, None)]


def test_between_two_tries_it_waits(replica: ManualReplica, receiver: WebhookReceiver) -> None:
    receiver.always = answer_with(500)
    replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    for _ in range(3):
        replica.step()
    assert len(receiver.ids) == 1
    assert states(replica) == [("waiting", 1, "answered 500")]


def test_after_most_of_a_day_it_has_failed_and_the_status_says_so(
    replica: ManualReplica, receiver: WebhookReceiver, database_url: str
) -> None:
    receiver.always = answer_with(500)
    job_id = replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    tell(replica, rounds=12)
    tries = len(NOTICE_WAITS) + 1
    assert len(receiver.ids) == tries
    assert states(replica) == [("failed", tries, "answered 500")]
    assert 12 * 3600 < sum(NOTICE_WAITS) < 24 * 3600
    env = environment(database_url=database_url)
    overview = json.loads(evalworker("status", "--json", env=env).stdout)["notices"]
    assert overview["failed"] == 1
    assert overview["latest_failed"][0]["job_id"] == str(job_id)
    assert f"not delivered: the notice of job {job_id}" in evalworker("status", env=env).stdout
    (one,) = json.loads(evalworker("status", job_id, "--json", env=env).stdout)["notices"]
    assert (one["state"], one["attempts"], one["error"]) == ("failed", tries, "answered 500")
    assert (
        "notice failed after 8 attempts (answered 500)"
        in evalworker("status", job_id, env=env).stdout
    )


def asks_for_the_secret(replica: ManualReplica) -> bool:
    with replica.database.read() as connection:
        return job_queries.asks_for_notices(connection, failed_with=NO_SECRET)


def test_check_asks_for_the_secret_while_a_notice_needs_it(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    assert not asks_for_the_secret(replica)
    replica.enqueue(["q"], callback_url=receiver.url)
    assert asks_for_the_secret(replica)
    replica.finish()
    assert asks_for_the_secret(replica)
    receiver.always = answer_with(410)
    tell(replica, rounds=3)
    assert states(replica) == [("failed", 1, "answered 410")]
    assert not asks_for_the_secret(replica)  # it would not have helped


def test_check_asks_for_the_secret_after_a_notice_has_failed_for_it(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    replica.webhooks = WebhookClient([], allow_private=True)
    replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    tell(replica)
    assert states(replica) == [("failed", 1, NO_SECRET)]
    assert asks_for_the_secret(replica)


def test_a_receiver_that_is_gone_is_not_told_again(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    receiver.always = answer_with(410)
    replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    tell(replica, rounds=3)
    assert states(replica) == [("failed", 1, "answered 410")]


def test_slow_answers_are_broken_off(replica: ManualReplica, receiver: WebhookReceiver) -> None:
    """One that says nothing, and one that says a little all the time."""
    over = threading.Event()

    def silent(request: BaseHTTPRequestHandler) -> None:
        over.wait(30)

    def dripping(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not over.wait(0.05):
            request.wfile.write(b"X-More: and more\r\n")

    receiver.answers = [silent, dripping]
    replica.webhooks = WebhookClient([SECRET], allow_private=True, deadline=0.4)
    replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    tell(replica)
    ((state, _, first),) = states(replica)
    tell(replica)
    ((_, attempts, second),) = states(replica)
    over.set()
    assert (state, attempts) == ("waiting", 2)
    assert "ReadTimeout" in first or "no complete response" in first
    assert "no complete response within 0.4 s" in second or "ReadTimeout" in second


def test_of_a_long_answer_no_more_than_its_status_is_read(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    sent = 0

    def endless(request: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n")
        while sent < 10**9:
            sent += request.wfile.write(b"x" * 65536)

    receiver.always = endless
    replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    tell(replica)
    assert states(replica) == [("sent", 1, None)]
    assert receiver.arrived.acquire(timeout=10)  # the connection was closed under it
    assert sent < 10**8


def test_an_answer_with_endless_headers_is_refused(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    def endless(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(100_000):
            request.wfile.write(b"X-More: " + b"x" * 1000 + b"\r\n")

    receiver.always = endless
    replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    tell(replica)
    ((state, _, error),) = states(replica)
    assert state == "waiting"
    assert "ProtocolError" in error


def test_a_doubled_message_sends_nothing_again(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    replica.pass_time()
    replica.dispatcher.turn()
    ((name, notice_id),) = replica.sent
    assert name == "notify"
    for _ in range(3):
        replica.notices.notify(notice_id)
    assert len(receiver.ids) == 1


def test_a_lost_message_is_sent_again(replica: ManualReplica, receiver: WebhookReceiver) -> None:
    replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    replica.pass_time()
    replica.dispatcher.turn()
    replica.sent.clear()
    replica.dispatcher.turn()
    assert replica.sent == []  # not yet
    tell(replica, rounds=2)
    assert len(receiver.ids) == 1


def test_who_has_lost_the_claim_records_nothing(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    replica.pass_time()
    (notice_id,) = replica.database.run(webhook_deliveries.nudge_due)

    def claim() -> webhook_deliveries.NoticeClaim:
        held = replica.database.run(
            lambda tx: webhook_deliveries.claim_notice(tx, notice_id, holder="a", lease=30.0)
        )
        assert held is not None
        return held

    asleep = claim()
    replica.pass_time()
    awake = claim()
    assert replica.database.run(lambda tx: webhook_deliveries.record_sent(tx, awake))
    assert not replica.database.run(lambda tx: webhook_deliveries.record_sent(tx, awake))
    assert not replica.database.run(
        lambda tx: webhook_deliveries.record_failed(tx, asleep, reason="slept")
    )
    assert not replica.database.run(
        lambda tx: webhook_deliveries.record_waiting(tx, asleep, reason="slept", wait=1.0)
    )
    assert states(replica) == [("sent", 2, None)]


def test_a_notice_whose_senders_die_comes_to_an_end(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    replica.pass_time()
    (notice_id,) = replica.database.run(webhook_deliveries.nudge_due)
    for _ in range(len(NOTICE_WAITS) + 1):
        replica.database.run(
            lambda tx: webhook_deliveries.claim_notice(tx, notice_id, holder="dies", lease=30.0)
        )
        replica.pass_time()
    tell(replica, rounds=2)
    assert receiver.ids == []
    assert states(replica) == [("failed", 9, "the processes that sent it died")]


def test_receivers_that_are_slow_take_up_a_few_places_only(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    for _ in range(webhook_deliveries.MAX_IN_DELIVERY + 5):
        replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    replica.pass_time()
    replica.dispatcher.turn()
    assert len(replica.sent) == webhook_deliveries.MAX_IN_DELIVERY
    replica.dispatcher.turn()
    assert len(replica.sent) == webhook_deliveries.MAX_IN_DELIVERY
    replica.deliver()
    replica.dispatcher.turn()
    assert len(replica.sent) == 5


@pytest.mark.one_database("postgres")
def test_killed_between_sending_and_recording_it_sends_again_under_the_same_id(
    database: Database, database_url: str, receiver: WebhookReceiver
) -> None:
    """The first process dies when its receiver has the notice and has not answered yet."""
    replica = ManualReplica(database, FakeJudgeAPI())
    replica.enqueue(["q"], callback_url=receiver.url)
    with running_sandbox(SandboxOptions(latency=(0.1, 0.2))) as judge:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE eval_jobs SET judge_id = 'response-checks'")
        env = environment(
            database_url=database_url,
            api_url=judge.url,
            api_key=judge.api_key,
            linger_seconds=0,
            poll_min_seconds=0.1,
            lease_seconds=5,
            webhook_secret=SECRET,
            webhook_allow_private=1,
        )
        with started("run", env=env) as process:

            def kill(_: object) -> None:
                os.kill(process.pid, signal.SIGKILL)
                time.sleep(1)  # until it is dead: it must not see that the connection ends

            receiver.answers = [kill]
            assert process.wait(60) == -signal.SIGKILL
        assert receiver.ids
        drained = evalworker("run", "--until-drained", env=env)
        assert drained.returncode == 0, drained.stderr
    assert SECRET not in drained.stderr
    assert len(receiver.ids) == 2
    assert len(set(receiver.ids)) == 1
    assert receiver.payloads[0] == receiver.payloads[1]
    assert states(replica) == [("sent", 2, None)]
