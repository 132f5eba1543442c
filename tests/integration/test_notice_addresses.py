"""A notice goes to the address that was asked for, and only where that is a public one."""

from __future__ import annotations

import socket
from typing import Any

import httpcore
import pytest

from tests.support.manual_replica import ManualReplica
from tests.support.notices import plain_job, states, tell
from tests.support.webhook_receiver import SECRET, WebhookReceiver, answer_with, running_receiver
from worker import InvalidInputs
from worker.webhooks.client import Delivered, Undelivered, WebhookClient


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
