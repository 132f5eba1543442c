"""The key of the judge API: where it comes from, how it is replaced, and what a refusal means."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from worker.config import load_settings
from worker.domain.outcomes import Accepted, Denied
from worker.errors import ConfigurationError
from worker.remote import JudgeAPI
from worker.remote.api_key import ApiKey, key_of

OLD, NEW = "old-key-123", "new-key-456"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"{OLD}\n")
    return path


def replace_by_rename(file: Path, text: str) -> None:
    other = file.with_suffix(".new")
    other.write_text(text)
    os.replace(other, file)


def api_that_accepts(
    key: ApiKey, accepted: str, *, sent: list[str] | None = None, status: int = 401
) -> JudgeAPI:
    def handle(request: httpx.Request) -> httpx.Response:
        header = request.headers["authorization"]
        if sent is not None:
            sent.append(header.removeprefix("Api-Key "))
        if header == f"Api-Key {accepted}":
            return httpx.Response(202, json={"batch_execution_id": "b"})
        body = {"detail": f"{header} is invalid", "code": "authentication_failed"}
        return httpx.Response(status, json=body)

    transport = httpx.MockTransport(handle)
    return JudgeAPI(base_url="https://judge.test", api_key=key, transport=transport)


@pytest.mark.parametrize("content", [OLD, f"{OLD}\n", f"  {OLD}\r\n\n"])
def test_the_key_of_a_file_may_have_blanks_around_it(file: Path, content: str) -> None:
    file.write_text(content)
    assert key_of(load_settings(api_key_file=str(file))).current == OLD


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "is empty; write the key into it"),
        (" \n", "is empty; write the key into it"),
        ("one\ntwo", "must have the key alone, on one line"),
    ],
)
def test_a_file_without_a_key_is_refused_in_one_sentence(
    file: Path, content: str | None, problem: str
) -> None:
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigurationError) as refused:
        key_of(load_settings(api_key_file=str(file)))
    assert refused.value.offences == [f"EVALWORKER_API_KEY_FILE={file}: {problem}"]


def test_a_folder_and_a_binary_file_are_refused_too(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="Is a directory"):
        ApiKey(file=file.parent)
    file.write_bytes(b"\xff\xfek\x00e\x00y\x00")
    with pytest.raises(ConfigurationError, match="characters that no header carries"):
        ApiKey(file=file)


@pytest.mark.parametrize("variable", ["EVALWORKER_API_KEY", "SCORABLE_API_KEY"])
def test_a_key_and_a_file_together_are_refused_with_both_names(
    variable: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, OLD)
    monkeypatch.setenv("EVALWORKER_API_KEY_FILE", str(file))
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    (offence,) = refused.value.offences
    assert offence.startswith(f"{variable} and EVALWORKER_API_KEY_FILE are both set")


def test_without_any_key_each_way_to_give_one_is_named() -> None:
    with pytest.raises(ConfigurationError) as refused:
        key_of(load_settings())
    assert "EVALWORKER_API_KEY is not set" in str(refused.value)
    assert "EVALWORKER_API_KEY_FILE" in str(refused.value)


def test_a_file_that_was_renamed_over_the_old_one_is_read(file: Path) -> None:
    keys: list[str] = []
    key = ApiKey(file=file, on_key=keys.append)
    assert not key.reload()
    replace_by_rename(file, f"{NEW}\n")
    assert key.reload()
    assert key.current == NEW
    assert keys == [OLD, NEW]


def test_a_secret_of_kubernetes_that_was_changed_is_read(tmp_path: Path) -> None:
    """It is a link to a link to a folder: the middle one is replaced."""
    for name, text in (("..1", OLD), ("..2", NEW)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "key").symlink_to("..data/key")
    key = ApiKey(file=tmp_path / "key")
    (tmp_path / "..tmp").symlink_to("..2")
    os.replace(tmp_path / "..tmp", tmp_path / "..data")
    assert key.reload()
    assert key.current == NEW


@pytest.mark.parametrize("content", [None, "", "one\ntwo", "ä"])
def test_the_old_key_is_kept_while_the_file_has_none_which_is_logged_once(
    file: Path, content: str | None
) -> None:
    key = ApiKey(file=file)
    file.unlink()
    if content is not None:
        file.write_text(content)
    with structlog.testing.capture_logs() as logged:
        assert not any(key.reload() for _ in range(3))
    assert key.current == OLD
    (line,) = logged
    assert line["event"] == "api_key.file_unusable"
    assert line["reason"].endswith("the old key is still used")
    file.write_text(NEW)
    assert key.reload()


@pytest.mark.parametrize("status", [401, 403])
def test_a_request_with_an_old_key_is_sent_again_with_the_new_one(file: Path, status: int) -> None:
    sent: list[str] = []
    key = ApiKey(file=file)
    replace_by_rename(file, NEW)
    with api_that_accepts(key, NEW, sent=sent, status=status) as api:
        assert api.submit("j", [{}]) == Accepted("b")
        assert api.submit("j", [{}]) == Accepted("b")
    assert sent == [OLD, NEW, NEW]
    assert key.refusal is None


def test_a_refused_key_is_sent_once_and_no_key_is_shown(file: Path) -> None:
    sent: list[str] = []
    key = ApiKey(file=file)
    with api_that_accepts(key, "another", sent=sent) as api:
        assert api.submit("j", [{}]) == Denied(
            "401 authentication_failed: Api-Key *** is invalid", key_refused=True
        )
        replace_by_rename(file, NEW)
        outcome = api.submit("j", [{}])
    assert sent == [OLD, OLD, NEW]
    assert isinstance(outcome, Denied)
    assert NEW not in outcome.reason


def test_a_swarm_of_refusals_counts_once() -> None:
    key = ApiKey("k")
    for _ in range(5):
        key.note_refused("k", "no", sent_at=0.0)
    assert key.refusal is not None
    assert key.refusal.count == 1
    with api_that_accepts(key, "another") as api:
        api.submit("j", [{}])
    assert key.refusal.count == 2
    with api_that_accepts(key, "k") as api:
        api.submit("j", [{}])
    assert key.refusal is None


def test_what_is_said_of_an_old_key_does_not_concern_the_new_one(file: Path) -> None:
    key = ApiKey(file=file)
    replace_by_rename(file, NEW)
    key.reload()
    key.note_refused(OLD, "no", sent_at=0.0)
    assert key.refusal is None


def test_threads_that_find_the_old_key_refused_all_go_on_with_the_new_one(file: Path) -> None:
    key = ApiKey(file=file)
    replace_by_rename(file, NEW)
    outcomes: list[Any] = []
    with api_that_accepts(key, NEW) as api:
        threads = [
            threading.Thread(target=lambda: outcomes.append(api.submit("j", [{}])))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes == [Accepted("b")] * 8
