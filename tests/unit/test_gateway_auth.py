"""The gateway's keys and their rate limits."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.config import load_settings, sources
from worker.errors import ConfigurationError
from worker.gateway.auth import Keys, read_keys
from worker.gateway.rate_limit import TokenBucket

SECRET = "a-secret-of-many-letters"


def offences(entries: object) -> str:
    text = entries if isinstance(entries, str) else json.dumps(entries)
    with pytest.raises(ConfigurationError) as caught:
        read_keys(text)
    assert SECRET not in str(caught.value)
    assert "EVALWORKER_GATEWAY_KEYS" in str(caught.value)
    return str(caught.value)


def test_keys_are_read_from_the_setting_or_from_the_file_it_names(tmp_path: Path) -> None:
    entries = {"a": {"key": SECRET, "judges": ["j"]}, "b": {"sha256": "0" * 64}}
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(entries))
    for given_keys in (json.dumps(entries), str(file)):
        first, second = read_keys(given_keys)
        assert (first.name, first.judges, first.bucket) == ("a", frozenset({"j"}), None)
        assert first.digest == hashlib.sha256(SECRET.encode()).digest()
        assert second.digest == bytes(32)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({}, "no key"),
        ({"a": {}}, "either a key or its sha256"),
        ({"a": {"key": SECRET, "sha256": "0" * 64}}, "either a key or its sha256"),
        ({"a": {"key": SECRET[:10]}}, "at least 16"),
        ({"a": {"sha256": SECRET}}, "a.sha256"),
        ({"a": {"key": SECRET}, "b": {"key": SECRET}}, "b has the same key as a"),
        ({"team a": {"key": SECRET}}, "'team a' is not a name"),
        ({"a": {"key": SECRET, "rate": 5}}, "a.rate"),
        ({"a": {"key": SECRET, "requests_per_second": 0}}, "greater than 0"),
        ('{"a": {"key": "' + SECRET, "JSON"),
        ("no-such-file.json", "or the name of a file with one (No such file or directory)"),
        (json.dumps([{"key": SECRET}]), "it must be a JSON object such as"),
        ("", "not set"),
    ],
)
def test_errors_in_the_keys_are_named_without_quoting_a_key(entries: object, words: str) -> None:
    assert words in offences(entries)


def test_the_settings_never_show_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps({"a": {"key": SECRET}})
    monkeypatch.setenv("EVALWORKER_GATEWAY_KEYS", text)
    settings = load_settings()
    assert settings.gateway_keys is not None
    assert settings.gateway_keys.get_secret_value() == text
    assert SECRET not in str(sources(settings)) + repr(settings)


def test_the_right_key_is_found_among_many() -> None:
    entries = {f"n{number}": {"key": f"{SECRET}-{number}"} for number in range(20)}
    keys = Keys(read_keys(json.dumps(entries)))
    for number in range(20):
        found = keys.find(f"{SECRET}-{number}")
        assert found is not None
        assert found.name == f"n{number}"
    for wrong in (None, "", SECRET, f"{SECRET}-20", f"{SECRET}-1 ", "\ud800"):
        assert keys.find(wrong) is None


def test_all_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the response time would reveal how much of a guess is right."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    names = [f"n{number}" for number in range(5)]
    keys = Keys(read_keys(json.dumps({name: {"key": f"{SECRET}-{name}"} for name in names})))
    monkeypatch.setattr("worker.gateway.auth.hmac", SimpleNamespace(compare_digest=compare))
    for guess in (f"{SECRET}-n0", f"{SECRET}-n4", "nobody's", ""):
        compared.clear()
        keys.find(guess)
        assert len(compared) == len(names), guess
        assert all(len(one) == len(other) == 32 for one, other in compared), "hashes, of one length"


@given(st.floats(0.1, 50), st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_no_period_has_more_requests_than_the_rate_allows(
    per_second: float, pauses: list[float]
) -> None:
    bucket, now, taken = TokenBucket(per_second), 0.0, []
    for pause in pauses:
        now += pause
        if bucket.take(now) == 0.0:
            taken.append(now)
    burst = max(1.0, per_second)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            count = last - first + 1
            assert count <= burst + per_second * (taken[last] - taken[first]) + 1e-6


@given(st.floats(0.1, 50))
def test_a_client_that_waits_as_long_as_it_should_is_admitted(per_second: float) -> None:
    bucket: Any = TokenBucket(per_second)
    now = 0.0
    for _ in range(200):
        wait = bucket.take(now)
        if wait:
            now += wait + 1e-9
            assert bucket.take(now) == 0.0
