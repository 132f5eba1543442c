"""Messages that a broker does not take: what is noted, logged and tried again."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
import structlog
from dramatiq.brokers.stub import StubBroker

from worker.pipeline.messages import LOG_SECONDS, QUIET_SECONDS, TRY_SECONDS, MessageSender


class Broker(StubBroker):
    """It refuses messages while there are `words`, each after some seconds of the test's clock."""

    def __init__(self) -> None:
        super().__init__()
        self.words = ""
        self.seconds = 0.0
        self.now = 0.0
        self.asked: list[Any] = []

    def enqueue(self, message: Any, **_: Any) -> Any:
        self.asked.append(message)
        self.now += self.seconds
        if self.words:
            raise ConnectionRefusedError(self.words)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def counts() -> dict[str, int]:
    return {"lost": 0, "room": 0}


@pytest.fixture
def sender(broker: Broker, counts: dict[str, int]) -> MessageSender:
    def count(name: str) -> None:
        counts[name] += 1

    return MessageSender(
        broker,
        "q",
        on_room=lambda: count("room"),
        on_lost=lambda: count("lost"),
        monotonic=lambda: broker.now,
    )


def test_trouble_is_known_with_its_reason_until_a_message_is_taken(
    broker: Broker, sender: MessageSender, counts: dict[str, int]
) -> None:
    sender.submit(uuid4())
    assert sender.failing is None
    broker.words = "OOM command not allowed"
    broker.now = 100.0
    sender.submit(uuid4())
    broker.now = 110.0
    sender.poll(uuid4(), delay=1.0)
    assert sender.failing is not None
    assert (sender.failing.since, sender.failing.reason) == (100.0, "OOM command not allowed")
    broker.words = ""
    sender.notify(uuid4())
    assert sender.failing is None
    assert counts == {"lost": 2, "room": 1}  # the dispatcher looks for what was lost


def test_a_minute_of_lost_messages_is_one_line(broker: Broker, sender: MessageSender) -> None:
    broker.words = "READONLY"
    with structlog.testing.capture_logs() as logged:
        for _ in range(40):
            sender.submit(uuid4())
            broker.now += LOG_SECONDS / 20
        broker.words = ""
        sender.submit(uuid4())
    assert [(line["event"], line.get("messages")) for line in logged] == [
        ("message.lost", 1),
        ("message.lost", 20),
        ("messages.sent_again", None),
    ]


def test_a_broker_that_refuses_slowly_is_left_alone_for_a_moment(
    broker: Broker, sender: MessageSender, counts: dict[str, int]
) -> None:
    broker.words, broker.seconds = "blocked", 18.0
    for _ in range(5):
        sender.submit(uuid4())
    assert (len(broker.asked), counts["lost"]) == (1, 5)
    broker.now += TRY_SECONDS
    sender.submit(uuid4())
    assert len(broker.asked) == 2


def test_a_quiet_broker_is_tried_with_a_message_about_nothing(
    broker: Broker, sender: MessageSender
) -> None:
    sender.test_if_quiet()
    assert broker.asked == []
    broker.now += QUIET_SECONDS
    broker.words = "OOM"
    sender.test_if_quiet()
    sender.test_if_quiet()
    (message,) = broker.asked
    assert message.args == ("00000000-0000-0000-0000-000000000000",)
    assert sender.failing is not None
    broker.words = ""
    broker.now += TRY_SECONDS
    sender.test_if_quiet()
    assert sender.failing is None
