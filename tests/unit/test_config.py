"""Settings are read from the environment, and invalid ones are reported without secrets."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scripts.describe_commands import commands_page
from scripts.generate_docs import setting_descriptions
from worker.config import Settings, hide_password, load_settings, sources, unknown_variables
from worker.errors import ConfigurationError


def offences_of(**overrides: object) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**overrides)
    return caught.value.offences


def test_nothing_has_to_be_configured() -> None:
    settings = load_settings()
    assert settings.database_url == "sqlite:///evalworker.db"
    assert settings.broker_url == "memory://"
    assert settings.api_key is None
    assert (settings.batch_size, settings.max_in_flight) == (100, 20)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALWORKER_MAX_IN_FLIGHT", "7")
    monkeypatch.setenv("EVALWORKER_LOG_LEVEL", "debug")
    monkeypatch.setenv("EVALWORKER_OPS_PORT", "")
    settings = load_settings()
    assert (settings.max_in_flight, settings.log_level, settings.ops_port) == (7, "DEBUG", None)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().batch_size = 1


def test_every_setting_is_described() -> None:
    descriptions = setting_descriptions()
    for name in Settings.model_fields:
        assert descriptions[name].endswith("."), name


@pytest.mark.parametrize(
    ("given_names", "winner"),
    [
        (("SCORABLE_API_KEY",), "SCORABLE_API_KEY"),
        (("SCORABLE_API_KEY", "ROOTSIGNALS_API_KEY"), "ROOTSIGNALS_API_KEY"),
        (("ROOTSIGNALS_API_KEY", "EVALWORKER_API_KEY"), "EVALWORKER_API_KEY"),
    ],
)
def test_the_key_is_read_under_three_names(
    monkeypatch: pytest.MonkeyPatch, given_names: tuple[str, ...], winner: str
) -> None:
    for name in given_names:
        monkeypatch.setenv(name, f"value of {name}")
    settings = load_settings()
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == f"value of {winner}"
    assert sources(settings)["EVALWORKER_API_KEY"][1] == f"environment {winner}"


def test_the_sources_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALWORKER_API_KEY", "k3y")
    monkeypatch.setenv("evalworker_broker_url", "redis://u:s3cret@host/0")
    found = sources(load_settings())
    assert found["EVALWORKER_BROKER_URL"] == (
        "redis://u:***@host/0",
        "environment EVALWORKER_BROKER_URL",
    )
    assert found["EVALWORKER_BATCH_SIZE"] == ("100", "default")
    assert "k3y" not in str(found)


def test_all_offences_are_reported_together_by_variable() -> None:
    offences = offences_of(max_in_flight=0, batch_size=101, lease_seconds=31, log_level="loud")
    assert [offence.partition("=")[0] for offence in offences] == [
        "EVALWORKER_MAX_IN_FLIGHT",
        "EVALWORKER_BATCH_SIZE",
        "EVALWORKER_LEASE_SECONDS",
        "EVALWORKER_LOG_LEVEL",
    ]
    assert "=101: " in offences[1]
    assert "100" in offences[1].partition(": ")[2]


def test_conflicting_settings_are_reported_beside_invalid_ones() -> None:
    offences = offences_of(max_in_flight=0, poll_min_seconds=60, batch_timeout_seconds=30)
    assert len(offences) == 3
    assert "POLL_MIN_SECONDS (60) must not be more than EVALWORKER_POLL_MAX" in offences[1]
    assert "BATCH_TIMEOUT_SECONDS (30) must be more than EVALWORKER_POLL_MAX" in offences[2]


def test_an_invalid_setting_is_in_no_conflict() -> None:
    assert len(offences_of(poll_max_seconds="soon", poll_min_seconds=60)) == 1


def test_the_values_at_the_limits_are_allowed() -> None:
    load_settings(lease_seconds=5, max_in_flight=10_000, linger_seconds=0, max_item_attempts=100)
    load_settings(poll_min_seconds=30, poll_max_seconds=30, batch_timeout_seconds=30.1)


@pytest.mark.parametrize(
    ("url", "spelled_out"),
    [
        ("sqlite:///here.db", "sqlite:///here.db"),
        ("sqlite:////abs/there.db", "sqlite:////abs/there.db"),
        ("postgresql://u:p@h:1/name", "postgresql+psycopg://u:p@h:1/name"),
        ("postgres://u:p@h/name", "postgresql+psycopg://u:p@h/name"),
        ("postgresql+psycopg://h/name", "postgresql+psycopg://h/name"),
        ("postgresql:///name?host=/dir", "postgresql+psycopg:///name?host=%2Fdir"),
        ("postgresql://u@/name?host=/dir", "postgresql+psycopg://u@/name?host=%2Fdir"),
    ],
)
def test_a_plain_url_means_psycopg_3(url: str, spelled_out: str) -> None:
    found = load_settings(database_url=url).sqlalchemy_url
    assert found.render_as_string(hide_password=False) == spelled_out


@pytest.mark.parametrize(
    "url",
    [
        "mysql://h/name",
        "postgresql+asyncpg://h/name",
        "postgresql+psycopg2://h/name",
        "sqlite+aiosqlite:///x.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "nonsense",
    ],
)
def test_other_databases_are_refused(url: str) -> None:
    (offence,) = offences_of(database_url=url)
    assert offence.startswith(f"EVALWORKER_DATABASE_URL={url}: ")


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "memory://?namespace=mine",
        "redis://h/0",
        "rediss://u:p@h:1/0?namespace=a.b-c_d",
        "unix:///run/valkey.sock?db=0",
        "amqp://u:p@h/%2F",
        "amqps://h",
        "postgresql:///name?host=/dir",
        "postgres://one:1,two:2/name",
        "redis://[::1]:6379/0",
    ],
)
def test_brokers_of_every_kind_are_allowed(url: str) -> None:
    assert load_settings(broker_url=url).broker_url == url


@pytest.mark.parametrize(
    "url",
    [
        "kafka://h",
        "redis:h",
        "",
        "redis://h/0?namespace=1st",
        "redis://h/0?namespace=a%20b",
        "amqp://h?namespace=mine.DQ",
        "redis://[h",
        "redis://h/name",
    ],
)
def test_other_brokers_and_namespaces_that_cannot_be_queues_are_refused(url: str) -> None:
    (offence,) = offences_of(broker_url=url)
    assert offence.startswith("EVALWORKER_BROKER_URL=")


@pytest.mark.parametrize(
    "overrides",
    [
        {"database_url": "postgresql://u:p@ss:s3cret@h/name"},
        {"database_url": "postgresql://u:p@s3cret/ss@h/name"},
        {"database_url": "postgresql://u:p@s3cret@h/name"},
        {"database_url": "host=h password=s3cret"},
        {"database_url": "mysql://u:s3cret@h/name"},
        {"database_url": "postgresql:u:s3cret@h/name"},
        {"broker_url": "postgresql://u:p@s3cret@h/name"},
        {"broker_url": "postgresql://u:s3cret/x@h/name"},
        {"broker_url": "redis://u:s3cret/x@h/0"},
        {"broker_url": "kafka://u:s3cret@h"},
        {"api_url": "ftp://u:s3cret@h"},
        {"api_key": ["s3cret"]},
        {"webhook_secret": "whsec_s3cret"},
        {"webhook_secret": "s3cretMfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
    ],
)
def test_no_offence_shows_a_secret(overrides: dict[str, object]) -> None:
    (offence,) = offences_of(**overrides)
    assert "s3cret" not in offence


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("https://judge.test", "https://judge.test"),
        ("https://judge.test/", "https://judge.test"),
        (" https://judge.test/v1\n", "https://judge.test"),
        ("https://judge.test/v1/", "https://judge.test"),
        ("https://judge.test/V1//", "https://judge.test"),
        ("HTTPS://judge.test:8443/api/v1", "HTTPS://judge.test:8443/api"),
        ("https://judge.test/v1/judges", "https://judge.test"),
        ("https://judge.test/v1/judges/x/batch-execute/", "https://judge.test"),
        ("https://judge.test/api/v1/batch-executions/", "https://judge.test/api"),
        ("https://judge.test/v1/proxy", "https://judge.test/v1/proxy"),
        ("https://judge.test/v10", "https://judge.test/v10"),
        ("http://v1", "http://v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
    ],
)
def test_the_api_url_needs_no_path_of_the_api(given: str, used: str) -> None:
    assert load_settings(api_url=given).api_url == used


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("'https://judge.test/v1'", "must not be in quotation marks"),
        ('"https://judge.test"', "must not be in quotation marks"),
        ("https://judge.test/v1?key=x", "must have no query ('?') and no fragment ('#')"),
        ("https://judge.test/#/v1", "must have no query ('?') and no fragment ('#')"),
        ("https://judge.test/a b", "must be an http:// or https:// URL"),
        ("judge.test/v1", "must be an http:// or https:// URL"),
        ("https:///v1", "must be an http:// or https:// URL"),
        (" ", "must be an http:// or https:// URL"),
    ],
)
def test_an_api_url_that_is_none_is_refused_in_one_sentence(given: str, problem: str) -> None:
    (offence,) = offences_of(api_url=given)
    assert offence == f"EVALWORKER_API_URL={given}: {problem}"


def test_a_webhook_secret_is_one_or_two_standard_secrets() -> None:
    one, two = ("whsec_" + base64.b64encode(bytes([n] * 32)).decode() for n in (1, 2))
    assert load_settings().webhook_secrets == []
    assert load_settings(webhook_secret=f" {one} {two}").webhook_secrets == [one, two]
    (offence,) = offences_of(webhook_secret=f"{one} whsec_c2hvcnQ=")
    assert "24 to 64 random bytes" in offence


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:pw@h:1/0", "redis://u:***@h:1/0"),
        ("redis://:pw@h/0", "redis://:***@h/0"),
        ("redis://u:p w@h/0", "redis://u:***@h/0"),
        ("amqp://u:p@ss/w@h/%2F", "amqp://u:***@h/%2F"),
        (
            "postgresql:///d?user=u&password=pw&host=/x",
            "postgresql:///d?user=u&password=***&host=/x",
        ),
        ("host=h password='p w' user=u", "host=h password=*** user=u"),
        ("https://api.example:8443/path", "https://api.example:8443/path"),
        ("redis://h/0", "redis://h/0"),
        ("u:pw@h", "u:***@h"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert hide_password(url) == shown


@given(st.text())
def test_hiding_a_password_never_fails(text: str) -> None:
    assert isinstance(hide_password(text), str)


@given(st.text(alphabet="abc:/?&= '\n%", min_size=1))
def test_no_password_between_user_and_host_is_shown(password: str) -> None:
    assert hide_password(f"redis://user:x{password}x@host/0") == "redis://user:***@host/0"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("EVALWORKER_MAX_INFLIGHT", "EVALWORKER_MAX_IN_FLIGHT"),
        ("EVALWORKER_BATCHSIZE", "EVALWORKER_BATCH_SIZE"),
        ("evalworker_log_levl", "EVALWORKER_LOG_LEVEL"),
        ("EVALWORKER_DATABASE_URI", "EVALWORKER_DATABASE_URL"),
        ("EVALWORKER_XYZZY", None),
    ],
)
def test_a_variable_that_is_no_setting_is_found_with_the_near_one(
    name: str, near: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    assert unknown_variables() == {name.upper(): near}


def test_settings_empty_variables_and_links_to_services_are_no_unknown_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"EVALWORKER_{name.upper()}", "1")
    monkeypatch.setenv("EVALWORKER_EMPTY", "")
    monkeypatch.setenv("EVALWORKERS_OWN", "1")
    for service in ("EVALWORKER", "EVALWORKER_POSTGRES"):
        monkeypatch.setenv(f"{service}_SERVICE_HOST", "10.0.0.1")
        for part in ("SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR"):
            monkeypatch.setenv(f"{service}_{part}", "x")
    assert unknown_variables() == {}


def test_every_variable_of_an_option_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    named = re.findall(r"Also set by the variable `(\w+)`", commands_page())
    assert named
    for name in named:
        monkeypatch.setenv(name, "1")
    assert unknown_variables() == {}
