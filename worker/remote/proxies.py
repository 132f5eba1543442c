"""Choose the proxy that the environment names for a URL, as curl and others read it."""

from __future__ import annotations

import fnmatch
import ipaddress
import os
import re
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec

import httpx

from worker.config import hide_password
from worker.errors import ConfigurationError

SOCKS = frozenset({"socks5", "socks5h"})
SCHEMES = frozenset({"http", "https"}) | SOCKS
DEFAULT_PORTS = {"http": 80, "https": 443}

_ENTRY = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(:(?P<port>\d+))?")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def environment_proxy(url: httpx.URL, *, socks_package: str = "socksio") -> httpx.URL | None:
    """Return the proxy for `url`, of `HTTP_PROXY`, `HTTPS_PROXY` or `ALL_PROXY` in either case.

    None where there is none, or where `NO_PROXY` excepts the host. Raises `ConfigurationError`
    where the proxy's URL is of no use, or needs the `socks_package`, which is not installed.
    """
    found = urllib.request.getproxies()  # on macOS and Windows, the system's own settings as well
    scheme = next((name for name in (url.scheme, "all") if found.get(name)), None)
    if scheme is None or is_excepted(url, found.get("no", "")):
        return None
    if urllib.request.proxy_bypass(url.host):  # the exceptions of macOS and Windows
        return None
    return _read_proxy(_variable(scheme), found[scheme], socks_package)


def _variable(scheme: str) -> str:
    """Return the name under which the environment has it; a name in lower case comes first."""
    lower = f"{scheme}_proxy"
    return lower if os.environ.get(lower) else lower.upper()


def _read_proxy(variable: str, value: str, socks_package: str) -> httpx.URL:
    text = value.strip()
    shown = f"{variable}={hide_password(text)}"
    try:
        proxy = httpx.URL(text if "://" in text else f"http://{text}")
    except httpx.InvalidURL as error:
        raise _unusable(shown, f"is no URL ({error})") from None
    if proxy.scheme not in SCHEMES:
        raise _unusable(shown, "must begin with http://, https:// or socks5://")
    if not proxy.host or not re.fullmatch(r"[\w.:-]+", proxy.host) or (proxy.port or 0) > 65535:
        raise _unusable(shown, "has no valid host and port")
    if proxy.scheme in SOCKS and find_spec(socks_package) is None:
        raise ConfigurationError(
            [f"{shown}: a SOCKS proxy needs an extra: pip install 'evalworker[socks]'"]
        )
    return proxy


def _unusable(shown: str, problem: str) -> ConfigurationError:
    return ConfigurationError([f"{shown}: {problem}; write it as http://HOST:PORT, or unset it"])


# --- NO_PROXY ------------------------------------------------------------------------------------


def is_excepted(url: httpx.URL, no_proxy: str) -> bool:
    """Return whether `NO_PROXY` excepts the URL's host.

    An entry is a host, which stands for its subdomains as well, an address, a network
    (`10.0.0.0/8`, `fd00::/8`) or a pattern (`*`); a host or an address may have a port. What is
    none of these excepts nothing.
    """
    port = url.port or DEFAULT_PORTS.get(url.scheme)
    return any(_matches(entry, url.host.lower(), port) for entry in _entries(no_proxy))


def _entries(no_proxy: str) -> Iterator[str]:
    for entry in no_proxy.lower().replace(",", " ").split():
        yield entry.rpartition("://")[2].rstrip("/")


def _matches(entry: str, host: str, port: int | None) -> bool:
    address, network = _network(host), _network(entry)
    if network is not None:
        return address is not None and _contains(network, address)
    parts = _ENTRY.fullmatch(entry)
    if parts is None or (parts["port"] and int(parts["port"]) != port):
        return False
    network = _network(parts["host"])
    if network is not None:
        return address is not None and _contains(network, address)
    name = parts["host"].strip(".")
    if "*" in name:
        return fnmatch.fnmatchcase(host, name)
    is_below = address is None and host.rstrip(".").endswith(f".{name}")
    return bool(name) and (host.rstrip(".") == name or is_below)


def _network(text: str) -> Network | None:
    """Read an address, in brackets or not, or a network; an address is a network of one."""
    try:
        return ipaddress.ip_network(re.sub(r"^\[([^]]*)\](?=/|$)", r"\1", text), strict=False)
    except ValueError:
        return None


def _contains(network: Network, address: Network) -> bool:
    return address.version == network.version and address.network_address in network
