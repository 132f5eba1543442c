"""Who may see the console, who may act, and what is refused before anybody is asked."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.consoles import (
    JSON_KEYS,
    KEYS,
    OPERATOR_KEY,
    SAME_ORIGIN,
    VIEWER_KEY,
    open_console,
    sign_in,
    words,
)
from worker.config import load_settings
from worker.console.access import COOKIE
from worker.console.people import People
from worker.console.server import serving_console
from worker.console.sessions import PURPOSE, SESSION_SECONDS, Sessions
from worker.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from worker.store.database import Database

pytestmark = pytest.mark.one_database("sqlite")
PROXY: dict[str, Any] = {"proxy_header": "X-Forwarded-User", "proxies": "10.0.0.0/8, ::1"}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9000", "[::1]:8323", "127.8.9.1"])
def test_without_keys_names_of_this_machine_are_served(database: Database, host: str) -> None:
    with open_console(database) as client:
        assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.nip.io", "0.0.0.0", ""],
)
def test_without_keys_a_foreign_host_gets_nothing(database: Database, host: str) -> None:
    with open_console(database) as client:
        for path in ("/", "/jobs", "/static/console.css", "/nowhere"):
            response = client.get(path, headers={"Host": host})
            assert response.status_code == 421
            assert "evalworker" not in response.text


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.org"])
def test_without_keys_the_console_listens_on_loopback_alone(sqlite_url: str, host: str) -> None:
    settings = load_settings(database_url=sqlite_url, console_host=host, console_port=0)
    with (
        pytest.raises(ConfigurationError, match="EVALWORKER_CONSOLE_KEYS"),
        serving_console(settings),
    ):
        pass


def test_with_keys_nobody_sees_anything_before_signing_in(database: Database) -> None:
    with open_console(database, keys=JSON_KEYS, base_url="https://console.test") as client:
        for path in ("/", "/jobs?status=failed", "/jobs?since=no"):
            response = client.get(path)
            assert response.status_code == 401
            assert "Overview" not in response.text
        assert client.get("/static/console.css").status_code == 200  # the form needs it


def test_a_key_opens_the_page_that_was_asked_for(database: Database) -> None:
    with open_console(database, keys=JSON_KEYS, base_url="https://console.test") as client:
        form = client.get("/jobs?status=failed&tag=a%26b").text
        target = re.search(r'name="target" value="([^"]*)"', form)
        assert target is not None
        response = sign_in(client, VIEWER_KEY, target=target[1].replace("&amp;", "&"))
        assert response.status_code == 303
        assert response.headers["location"] == "/jobs?status=failed&tag=a%26b"
        cookie = response.headers["set-cookie"].lower()
        assert all(word in cookie for word in ("httponly", "samesite=lax", "secure", "path=/"))
        assert VIEWER_KEY not in cookie
        assert client.get("/jobs").status_code == 200
        assert client.post("/sign-out", headers=SAME_ORIGIN).status_code == 303
        assert client.get("/jobs").status_code == 401


@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/\\evil.example", "jobs"]
)
def test_signing_in_leads_nowhere_else(database: Database, target: str) -> None:
    with open_console(database, keys=JSON_KEYS) as client:
        assert sign_in(client, VIEWER_KEY, target=target).headers["location"] == "/"


@pytest.mark.parametrize("key", ["", "wrong", VIEWER_KEY[:-1], VIEWER_KEY + " ", "\N{SNOWMAN}"])
def test_a_wrong_key_opens_nothing(database: Database, key: str) -> None:
    with open_console(database, keys=JSON_KEYS) as client:
        response = sign_in(client, key)
        assert response.status_code == 401
        assert "set-cookie" not in response.headers
        assert "opens nothing" in words(response.text)


def test_a_key_that_was_removed_from_the_file_ends_its_session(
    database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(JSON_KEYS)
    with open_console(database, keys=str(file)) as client:
        sign_in(client, OPERATOR_KEY)
        assert client.get("/").status_code == 200
        file.write_text('{"half')  # an editor is writing: nobody is signed out
        assert client.get("/").status_code == 200
        file.write_text(json.dumps({"vera": KEYS["vera"]}))
        assert client.get("/").status_code == 401
        assert sign_in(client, OPERATOR_KEY).status_code == 401
        assert sign_in(client, VIEWER_KEY).status_code == 303
        file.write_text("{}")
        assert client.get("/").status_code == 401


def test_a_session_of_one_replica_is_known_to_every_other_with_the_same_keys(
    database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    hashed = {name: {**KEYS[name], "sha256": _sha256(KEYS[name]["key"])} for name in KEYS}
    for entry in hashed.values():
        del entry["key"]
    file.write_text(json.dumps(hashed))
    with (
        open_console(database, keys=JSON_KEYS) as first,
        open_console(database, keys=str(file)) as second,
    ):
        sign_in(first, OPERATOR_KEY)
        cookie = {"Cookie": f"{COOKIE}={first.cookies[COOKIE]}"}
        assert "otto" in words(second.get("/", headers=cookie).text)
        assert second.get("/pause", headers=cookie).status_code == 200
        file.write_text(json.dumps({"vera": hashed["vera"]}))
        assert second.get("/", headers=cookie).status_code == 401
        file.write_text(json.dumps({**hashed, "otto": {"key": f"{OPERATOR_KEY} 2"}}))
        assert second.get("/", headers=cookie).status_code == 401
        assert first.get("/").status_code == 200  # nobody has told this one


def test_a_session_ends_after_twelve_hours() -> None:
    people, now = People(JSON_KEYS), 1_000_000.0
    person = people.find(VIEWER_KEY)
    assert person is not None
    token = Sessions(people, clock=lambda: now).token(person)
    for later, known in ((0, person), (SESSION_SECONDS, person), (SESSION_SECONDS + 1, None)):
        assert Sessions(people, clock=lambda: now + later).person(token) == known  # noqa: B023


def test_an_altered_cookie_is_worth_nothing(database: Database) -> None:
    with open_console(database, keys=JSON_KEYS) as client:
        sign_in(client, VIEWER_KEY)
        name, ends_at, signature = client.cookies.pop(COOKIE).strip('"').split(".")
    anybody = hmac.new(b"", f"{PURPOSE}\notto\n{ends_at}".encode(), hashlib.sha256).hexdigest()
    with open_console(database, keys=JSON_KEYS) as client:
        for forged in (
            f"{name}.{int(ends_at) + 1}.{signature}",
            f"b3R0bw==.{ends_at}.{signature}",
            f"b3R0bw==.{ends_at}.{anybody}",
            f"{name}.{ends_at}.",
            f"{name}.{ends_at}.{signature[:-1]}",
            f"{name}.x.{signature}",
            f"{name}.{'9' * 5000}.{signature}",
            "….….…",
            "",
        ):
            headers = {b"Cookie": f"{COOKIE}={forged}".encode()}
            assert client.get("/", headers=headers).status_code == 401


def test_a_name_that_only_a_proxy_vouches_for_has_no_session(database: Database) -> None:
    keys = json.dumps({**KEYS, "anna": {"role": "operator"}})
    signature = hmac.new(b"", f"{PURPOSE}\nanna\n9999999999".encode(), hashlib.sha256).hexdigest()
    cookie = {"Cookie": f"{COOKIE}=YW5uYQ==.9999999999.{signature}"}
    with open_console(database, keys=keys, **PROXY) as client:
        assert client.get("/", headers=cookie).status_code == 401


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_a_trusted_proxy_says_who_it_is_and_the_keys_say_what_they_may(database: Database) -> None:
    keys = json.dumps({**KEYS, "anna@example.org": {"role": "operator"}})
    given = {**PROXY, "keys": keys}
    user = {"X-Forwarded-User": "anna@example.org"}
    with open_console(database, address="10.1.2.3", base_url="http://any.test", **given) as client:
        assert "anna@example.org" in words(client.get("/", headers=user).text)
        assert "viewer" in words(client.get("/", headers={"X-Forwarded-User": "eve"}).text)
        assert client.get("/").status_code == 401
        twice = [("X-Forwarded-User", "eve"), ("X-Forwarded-User", "anna@example.org")]
        assert client.get("/", headers=twice).status_code == 401


@pytest.mark.parametrize("address", ["127.0.0.1", "11.0.0.1", "::2", "testclient"])
def test_the_header_of_anybody_else_is_ignored(database: Database, address: str) -> None:
    headers = {"X-Forwarded-User": "otto", "X-Forwarded-For": "10.0.0.1"}
    with open_console(database, address=address, keys=JSON_KEYS, **PROXY) as client:
        assert client.get("/", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("address", "scheme", "is_secure"),
    [("10.1.2.3", "https", True), ("10.1.2.3", "http", False), ("11.0.0.1", "https", False)],
)
def test_behind_a_proxy_that_ends_tls_the_session_is_for_tls_alone(
    database: Database, address: str, scheme: str, is_secure: bool
) -> None:
    with open_console(database, keys=JSON_KEYS, proxies="10.0.0.0/8", address=address) as client:
        headers = {**SAME_ORIGIN, "X-Forwarded-Proto": scheme, "X-Forwarded-User": "otto"}
        assert client.get("/", headers=headers).status_code == 401  # nobody is named by a header
        response = client.post("/sign-in", data={"key": VIEWER_KEY}, headers=headers)
        assert ("secure" in response.headers["set-cookie"].lower()) == is_secure


def test_the_header_of_a_proxy_needs_the_addresses_of_the_proxy() -> None:
    for wrong in (
        {"console_proxy_header": "X-User"},
        {"console_proxy_header": "X-User", "console_proxies": "10.0.0.1/8"},
        {"console_proxy_header": "X User", "console_proxies": "10.0.0.1"},
        {"console_prefix": "evalworker"},
        {"console_prefix": "/a?b"},
    ):
        with pytest.raises(ConfigurationError, match="EVALWORKER_CONSOLE_"):
            load_settings(**wrong)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "http://localhost"}, 303),
        ({"Origin": "http://localhost:81"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
    ],
)
def test_a_change_must_come_from_a_page_of_the_console(
    database: Database, headers: dict[str, str], status: int
) -> None:
    with open_console(database, keys=JSON_KEYS) as client:
        response = client.post("/sign-in", data={"key": OPERATOR_KEY}, headers=headers)
        assert response.status_code == status


@pytest.mark.parametrize(
    "path", ["/", "/jobs", "/nowhere", "/static/console.css", "/jobs?since=no"]
)
def test_every_response_forbids_whatever_the_console_does_not_need(
    database: Database, path: str
) -> None:
    with open_console(database) as client:
        response = client.get(path)
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    if "html" in response.headers["content-type"]:
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", response.text)
        assert not re.findall(r"<script(?! src=)", response.text)
        assert response.headers["cache-control"] == "no-store"


def test_a_prefix_is_in_every_link_and_may_be_stripped_by_the_proxy(database: Database) -> None:
    with open_console(database, prefix="/evals/console/", keys=JSON_KEYS) as client:
        assert sign_in(client, VIEWER_KEY).headers["location"] == "/evals/console/"
        cookie = {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
        for path in (
            *("/evals/console", "/evals/console/", "/evals/console/jobs", "/jobs"),
            *("/evals/console/jobs/", "/jobs/"),  # not redirected to where the prefix is lost
        ):
            response = client.get(path, headers=cookie)
            assert response.status_code == 200
            links = re.findall(r'(?:href|src|action|hx-get)="([^"#]*)"', response.text)
            assert links
            assert all(link.startswith("/evals/console/") for link in links)
        assert client.get("/evals/consoles", headers=cookie).status_code == 404


def test_a_mistyped_address_says_what_is_wrong(database: Database) -> None:
    for query, word in (
        ("since=yesterday", "since"),
        ("status=done", "one of pending"),
        ("before=x", "an id"),
        ("metadata=x", "= between them"),
        ("tag=%00", "without NUL"),
        ("tag=" + "x" * 10_001, "10,000"),
    ):
        with open_console(database) as client:
            response = client.get(f"/jobs?{query}")
        assert response.status_code == 400
        assert word in words(response.text)
