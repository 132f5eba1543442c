"""Events are named by a subject and what happened to it, and each has a sentence."""

from __future__ import annotations

import re

import pytest

from worker.events import CountedEvent, Event


@pytest.mark.parametrize("event", [*Event, *CountedEvent])
def test_an_event_is_a_subject_and_what_happened(event: Event | CountedEvent) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z_]+", event)


@pytest.mark.parametrize("event", Event)
def test_a_stored_event_has_one_sentence(event: Event) -> None:
    assert re.fullmatch(r"[A-Z][^.]+\.", event.description)
    assert Event[event.name] is event
