"""Proxies and certificates that the environment names: what is used, and what is refused."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import certifi
import httpx
import pytest

from tests.support.raw_server import HEAD, client, serving, without_proxies
from worker.domain.outcomes import Accepted
from worker.errors import ConfigurationError
from worker.remote import proxies
from worker.remote.certificates import tls_context
from worker.remote.proxies import environment_proxy, is_excepted
from worker.tracing.exporter import check_export
from worker.webhooks.client import WebhookClient

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    without_proxies(monkeypatch)
    for name in CERTIFICATES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        ("http://localhost:8000", "localhost,[::1]"),
        ("http://[::1]:8000", "localhost,[::1]"),
        ("http://[::1]:8000", "localhost ,, 0:0:0:0:0:0:0:1"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://[fd12::5]", "fd00::/8"),
        ("http://[fd12::5]", "10.0.0.0/8, [fd00::]/8"),
        ("http://10.20.30.40", "10.0.0.0/8"),
        ("http://10.20.30.40", "10.20.30.41/16"),
        ("http://10.20.30.40", "10.20.*"),
        ("https://api.example.com", ".example.com"),
        ("https://api.example.com", "example.com"),
        ("https://api.example.com.", "EXAMPLE.com"),
        ("https://api.example.com", "*.example.com"),
        ("https://api.example.com", "api.example.com:443"),
        ("https://api.example.com", "https://api.example.com/"),
        ("https://anything.test", "other, *"),
    ],
)
def test_no_proxy_excepts_hosts_addresses_and_networks(url: str, no_proxy: str) -> None:
    assert is_excepted(httpx.URL(url), no_proxy)


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        ("http://[::1]:8000", "localhost,127.0.0.1"),
        ("http://[::1]:8000", "[::1]:80"),
        ("http://[::18]", "[::1]:8"),
        ("http://[fe80::1]", "fd00::/8"),
        ("http://10.1.1.1", "10.0.0.0/33, [::1, 1.1.1.1"),
        ("http://10.1.1.1", "1.1"),
        ("https://api.example.com", "notexample.com, ample.com, example.com:8443, .com.example"),
        ("https://api.example.com", ""),
        ("https://api.example.com", " , . ,:"),
    ],
)
def test_no_proxy_excepts_nothing_else(url: str, no_proxy: str) -> None:
    assert not is_excepted(httpx.URL(url), no_proxy)


def test_the_exceptions_of_the_environment_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "localhost,[::1],fd00::/8")
    assert environment_proxy(httpx.URL("http://[::1]:9/")) is None
    assert environment_proxy(httpx.URL("http://[fd00::1]/")) is None
    assert environment_proxy(httpx.URL("http://judge.test")) == httpx.URL("http://proxy.test:3128")


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("http://proxy.test:abc", "is no URL (Invalid port: 'abc')"),
        ("http://", "has no valid host and port"),
        (":3128", "has no valid host and port"),
        ("http://proxy.test:99999", "has no valid host and port"),
        ('"http://proxy.test:3128"', "must begin with http://"),
        ("not a proxy", "has no valid host and port"),
        ("socks4://proxy.test:1080", "must begin with http://, https:// or socks5://"),
    ],
)
def test_a_proxy_that_is_none_is_refused_in_a_line_that_names_its_variable(
    variable: str, value: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as refused:
        client("https://judge.test")
    (line,) = refused.value.offences
    assert line.startswith(f"{variable}={value}: ")
    assert problem in line
    assert line.endswith("write it as http://HOST:PORT, or unset it")


def test_a_proxys_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://me:s3cret@proxy.test")
    with pytest.raises(ConfigurationError) as refused:
        client("https://judge.test")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks_proxy_is_used(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def talk(connection: socket.socket, _: threading.Event) -> None:
        connection.settimeout(5)
        connection.recv(64)
        connection.sendall(b"\x05\x00")  # version 5, no authentication
        asked.append(connection.recv(256))
        connection.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
        connection.recv(65536)
        body = b'{"batch_execution_id": "b"}'
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    with serving(talk) as url:
        monkeypatch.setenv("ALL_PROXY", url.replace("http", scheme))
        with client("http://judge.invalid") as api:
            assert api.submit("j", [{}]) == Accepted("b")
    assert b"judge.invalid" in asked[0]  # its name is resolved by the proxy


def test_without_the_extra_a_socks_proxy_is_refused_with_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("all_proxy", "socks5://u:s3cret@proxy.test:1080")
    monkeypatch.setattr(proxies, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError) as refused:
        client("https://judge.test")
    assert refused.value.offences == [
        "all_proxy=socks5://u:***@proxy.test:1080: a SOCKS proxy needs an extra: "
        "pip install 'evalworker[socks]'"
    ]


# --- certificates ---


def _bad_path(tmp_path: Path, kind: str) -> str:
    path = tmp_path / kind
    match kind:
        case "a folder":
            path.mkdir()
        case "empty":
            path.touch()
        case "no PEM":
            path.write_bytes(b"\x30\x82\x01")
        case "cut off":
            path.write_text("-----BEGIN CERTIFICATE-----\nMIIB")
    return str(path)


@pytest.mark.parametrize("kind", ["missing", "a folder", "empty", "no PEM", "cut off"])
def test_a_file_without_certificates_is_refused_in_a_line_that_names_its_variable(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _bad_path(tmp_path, kind)
    monkeypatch.setenv("SSL_CERT_FILE", path)
    for build in (
        lambda: client("https://judge.test"),
        lambda: client("http://judge.test"),
        lambda: WebhookClient([], allow_private=True),
    ):
        with pytest.raises(ConfigurationError) as refused:
            build()
        (line,) = refused.value.offences
        assert line.startswith(f"SSL_CERT_FILE={path}: ")
        assert line.endswith("correct the path, or unset the variable")


@pytest.mark.parametrize("kind", ["missing", "a folder", "empty"])
def test_a_folder_without_certificates_is_refused_too(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _bad_path(tmp_path, kind)
    monkeypatch.setenv("SSL_CERT_DIR", path)
    with pytest.raises(ConfigurationError, match=r"^SSL_CERT_DIR="):
        tls_context()


def test_good_certificates_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0123abcd.0").touch()
    monkeypatch.setenv("SSL_CERT_DIR", f"/missing:{tmp_path}")
    assert tls_context().cert_store_stats()["x509"] == 0  # OpenSSL reads folders when it needs to
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    assert tls_context().cert_store_stats()["x509"] > 0


# --- the exporter of traces ---


@pytest.mark.parametrize(
    ("variables", "offence"),
    [
        ({"REQUESTS_CA_BUNDLE": "/missing"}, "REQUESTS_CA_BUNDLE=/missing: cannot be read"),
        ({"CURL_CA_BUNDLE": "/dev/null"}, "CURL_CA_BUNDLE=/dev/null: has no readable"),
        ({"OTEL_EXPORTER_OTLP_CERTIFICATE": "/missing"}, "OTEL_EXPORTER_OTLP_CERTIFICATE="),
        ({"HTTPS_PROXY": "ftp://proxy.test"}, "HTTPS_PROXY=ftp://proxy.test: must begin with"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "collector:4318"}, "must begin with http://"),
    ],
)
def test_an_exporter_that_could_only_fail_is_refused(
    variables: dict[str, str], offence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.test")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        check_export()
    (line,) = refused.value.offences
    assert offence in line


def test_what_only_the_exporter_would_use_is_not_checked_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/missing")
    check_export()
    with contextlib.closing(client("https://judge.test")):
        pass
