"""Whoever asked is told that a job has ended: once for each end, signed, and wherever it may go."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpcore
import psycopg
import pytest
import sqlalchemy as sa

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.processes import environment, evalworker, started
from tests.support.webhook_receiver import SECRET, WebhookReceiver, answer_with, running_receiver
from worker import InvalidInputs
from worker.domain.backoff import NOTICE_WAITS
from worker.domain.lifecycle import Status
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import running_sandbox
from worker.store import job_commands, job_completion, webhook_deliveries
from worker.store.views import job_progress
from worker.webhooks.client import NO_SECRET, Delivered, Undelivered, WebhookClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler

    from worker.store.database import Database
    from worker.store.transaction import Transaction


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with running_receiver() as found:
        yield found


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI())


def tell(replica: ManualReplica, rounds: int = 1) -> None:
    """Every notice that is due, so many times."""
    for _ in range(rounds):
        replica.step()
        replica.pass_time()


def states(replica: ManualReplica) -> list[Any]:
    return [
        tuple(row)
        for row in replica.rows(
            "SELECT state, attempts, error FROM eval_notices ORDER BY created_at"
        )
    ]


def test_the_end_of_a_job_is_told_once_with_what_came_of_it(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    job_id = replica.enqueue(["good", "fail"], callback_url=receiver.url, metadata={"order": 17})
    replica.enqueue(["nobody is told of this one"])
    replica.finish()
    tell(replica, rounds=3)
    ((finished_at,),) = (
        replica.database.run(
            lambda tx: tx.execute(
                sa.select(job_progress.c.finished_at).where(job_progress.c.job_id == job_id)
            ).all()
        ),
    )
    assert receiver.payloads == [
        {
            "type": "job.finished",
            "timestamp": finished_at[0].isoformat(),
            "data": {
                "job_id": str(job_id),
                "judge_id": "judge",
                "status": "completed",
                "counts": {"total": 2, "completed": 1, "failed": 1, "cancelled": 0},
                "metadata": {"order": 17},
            },
        }
    ]
    assert receiver.paths == ["/notices?of=jobs"]
    assert receiver.headers[0]["content-type"] == "application/json"
    assert states(replica) == [("sent", 1, None)]
    assert replica.events()[-1] == "notice.sent"
    assert [UUID(sent).version for sent in receiver.ids] == [7]


def test_a_job_that_ends_again_gives_a_new_notice_with_a_new_id(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    job_id = replica.enqueue(["good", "fail"], callback_url=receiver.url)
    replica.finish()
    tell(replica)
    replica.database.run(lambda tx: job_commands.retry(tx, job_id))
    replica.finish()
    tell(replica)
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO eval_items (job_id, item_index, request)"
            f" VALUES ('{job_id}', 2, 'came late')"
        )
    replica.database.run(job_completion.wake_stray_jobs)
    replica.finish()
    tell(replica)
    assert [payload["data"]["counts"]["total"] for payload in receiver.payloads] == [2, 2, 3]
    assert len(set(receiver.ids)) == 3


@pytest.mark.parametrize("end", ["cancelled", "failed", "without inputs", "without a judge"])
def test_every_way_to_end_is_told(
    replica: ManualReplica, receiver: WebhookReceiver, end: str
) -> None:
    if end == "without inputs":
        plain_job(replica, receiver.url, created_at="2020-01-01 00:00:00+00:00")
    elif end == "without a judge":
        plain_job(replica, receiver.url, judge_id="")
    else:
        job_id = replica.enqueue(["fail"], callback_url=receiver.url)
        if end == "cancelled":
            replica.database.run(lambda tx: job_commands.cancel(tx, job_id))
    replica.finish()
    tell(replica)
    (payload,) = receiver.payloads
    assert payload["data"]["status"] == ("cancelled" if end == "cancelled" else "failed")


def plain_job(replica: ManualReplica, url: str, **columns: str) -> None:
    """As plain SQL inserts it, whatever it says."""
    given = {
        "id": "01932f5e-0000-7000-8000-000000000001",
        "judge_id": "judge",
        "callback_url": url,
        **columns,
    }
    names, values = ", ".join(given), ", ".join(f"'{value}'" for value in given.values())
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO eval_jobs ({names}) VALUES ({values})")


def test_a_notice_is_written_with_the_end_of_its_job_or_not_at_all(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    job_id = replica.enqueue(["q"], callback_url=receiver.url)
    with pytest.raises(ZeroDivisionError):
        replica.database.run(partial(end_and_break, job_id=job_id))
    assert states(replica) == []


def end_and_break(tx: Transaction, job_id: UUID) -> float:
    job_completion.end_job(tx, job_id, Status.FAILED, "why not")
    return 1 / 0


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


def test_a_receiver_that_is_gone_is_not_told_again(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    receiver.always = answer_with(410)
    replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    tell(replica, rounds=3)
    assert states(replica) == [("failed", 1, "answered 410")]


def test_a_redirect_is_not_followed(replica: ManualReplica, receiver: WebhookReceiver) -> None:
    with running_receiver() as elsewhere:
        receiver.always = answer_with(307, Location=elsewhere.url)
        replica.enqueue(["q"], callback_url=receiver.url)
        replica.finish()
        tell(replica)
        assert elsewhere.ids == []
    assert states(replica) == [("waiting", 1, "answered 307: redirects are not followed")]


def test_a_receiver_without_anybody_behind_it_is_asked_again(replica: ManualReplica) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        replica.enqueue(["q"], callback_url=f"http://127.0.0.1:{taken.getsockname()[1]}/")
        replica.finish()
        tell(replica)
    ((state, attempts, error),) = states(replica)
    assert (state, attempts) == ("waiting", 1)
    assert "ConnectError" in error


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


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "127.1", "0.0.0.0"])
def test_private_addresses_are_refused_however_they_are_written(
    receiver: WebhookReceiver, host: str
) -> None:
    url = receiver.url.replace("127.0.0.1", host).replace("http:", "https:")
    with WebhookClient([SECRET], allow_private=False) as webhooks:
        outcome = webhooks.send(url, "an-id", {})
    assert isinstance(outcome, Undelivered)
    assert "not a public address" in outcome.reason
    assert "EVALWORKER_WEBHOOK_ALLOW_PRIVATE" in outcome.reason
    assert outcome.is_permanent
    assert receiver.ids == []


def test_a_refused_address_ends_the_notice_and_says_why(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    replica.webhooks = WebhookClient([SECRET], allow_private=False)
    replica.enqueue(["q"], callback_url=receiver.url.replace("http:", "https:"))
    replica.enqueue(["q"], callback_url=receiver.url)
    replica.finish()
    tell(replica, rounds=2)
    (one, two) = states(replica)
    assert one[:2] == two[:2] == ("failed", 1)
    assert {"not a public" in one[2], "not a public" in two[2]} == {True, False}
    assert "must begin with https://" in one[2] + two[2]
    assert receiver.ids == []


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = noted_connections(monkeypatch)
    outcome = WebhookClient(
        [SECRET], allow_private=False, resolve=lambda *_: ["93.184.216.34", "10.0.0.7"]
    ).send("https://example.com/", "an-id", {})
    assert isinstance(outcome, Undelivered)
    assert "example.com is 10.0.0.7" in outcome.reason
    assert reached == []


def test_a_name_that_means_another_address_a_moment_later_leads_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: looked up once, and connected to what was looked up."""
    reached = noted_connections(monkeypatch)
    answers = [["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"]]
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers.pop(0)

    webhooks = WebhookClient([SECRET], allow_private=False, resolve=rebinding)
    first = webhooks.send("https://rebinding.example/", "an-id", {})
    assert isinstance(first, Undelivered)
    assert (asked, reached) == (["rebinding.example"], ["93.184.216.34"])
    assert not first.is_permanent
    second = webhooks.send("https://rebinding.example/", "an-id", {})
    assert isinstance(second, Undelivered)
    assert second.is_permanent
    assert reached == ["93.184.216.34"]


def noted_connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where connections would go; none is made."""
    reached: list[str] = []

    def connect(_: object, host: str, *__: object, **___: object) -> None:
        reached.append(host)
        raise httpcore.ConnectError("not from a test")

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    return reached


def test_the_proxy_of_the_environment_is_not_asked(
    receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would look names up by itself."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with WebhookClient([SECRET], allow_private=True) as webhooks:
        assert webhooks.send(receiver.url, "an-id", {}) == Delivered()


def test_nothing_is_sent_unsigned(
    replica: ManualReplica, receiver: WebhookReceiver, database_url: str
) -> None:
    replica.webhooks = WebhookClient([], allow_private=True)
    replica.enqueue(["q"], callback_url=receiver.url)
    env = environment(database_url=database_url, api_key="key", api_url="http://127.0.0.1:9")
    named = json.loads(evalworker("check", "--json", env=env).stdout)["checks"]["notices"]
    assert "EVALWORKER_WEBHOOK_SECRET is not set" in named
    replica.finish()
    tell(replica)
    assert receiver.ids == []
    assert states(replica) == [("failed", 1, NO_SECRET)]


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


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "//example.com/",
        "file:///etc/passwd",
        "https://",
        "https://user:secret@example.com/",
        "https://example.com:port/",
        "https://example.com\\@127.0.0.1/",
        "https://example.com/a b",
        "https://example.com/\n",
        "https://exämple.com/",
        "https://example.com/" + "x" * 2000,
        5,
    ],
)
def test_a_url_that_cannot_be_told_is_refused_by_enqueue_and_ends_if_sql_put_it_there(
    replica: ManualReplica, url: Any
) -> None:
    with pytest.raises(InvalidInputs, match="callback_url"):
        replica.enqueue(["q"], callback_url=url)
    plain_job(replica, url, created_at="2020-01-01 00:00:00+00:00")
    replica.finish()
    tell(replica)
    ((state, attempts, error),) = states(replica)
    assert (state, attempts) == ("failed", 1)
    assert "callback_url" in error
    assert "secret" not in error


def test_the_postgresql_function_takes_a_url_as_its_last_argument(
    database_of_postgres: Database, receiver: WebhookReceiver
) -> None:
    replica = ManualReplica(database_of_postgres, FakeJudgeAPI())
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "SELECT eval_enqueue('judge', '[{\"request\": \"q\"}]', '[]', NULL, 'k', 0, NULL,"
            f" '{receiver.url}')"
        )
        connection.exec_driver_sql("SELECT eval_enqueue('judge', '[{\"request\": \"q\"}]')")
    replica.finish()
    tell(replica)
    assert len(receiver.ids) == 1


def test_postgresql_notifies_whoever_listens_of_each_end_with_its_commit(
    database_of_postgres: Database, postgres_url: str
) -> None:
    replica = ManualReplica(database_of_postgres, FakeJudgeAPI())
    one, two = replica.enqueue(["q"]), replica.enqueue(["fail"])
    with psycopg.connect(postgres_url, autocommit=True) as listener:
        listener.execute("LISTEN eval_job_finished")
        with pytest.raises(ZeroDivisionError):  # rolled back
            replica.database.run(partial(end_and_break, job_id=one))
        replica.finish()
        heard = [notice.payload for notice in listener.notifies(timeout=5, stop_after=2)]
        assert sorted(heard) == sorted([str(one), str(two)])
        replica.database.run(lambda tx: job_commands.retry(tx, two))
        replica.finish()
        again = [notice.payload for notice in listener.notifies(timeout=5, stop_after=1)]
        assert again == [str(two)]
        assert list(listener.notifies(timeout=0.2)) == []


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
