"""The API's own URLs. A URL that the remote names is used only where the key stays at home."""

from __future__ import annotations

from urllib.parse import quote

import httpx

from worker.errors import ConfigurationError

MAX_URL = 2000  # characters of a status_url; what is longer is not one


class Address:
    """Where the API is: an origin, and for some installs a path before `/v1`."""

    def __init__(self, base_url: str) -> None:
        try:
            base = httpx.URL(base_url.strip().rstrip("/") + "/")
            base.raw_host.decode("ascii").encode("idna")  # as a socket will, and then too late
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ConfigurationError([f"the API's URL cannot be read: {error}"]) from None
        if base.scheme not in ("http", "https") or not base.host:
            raise ConfigurationError(["the API's URL must begin with http:// or https://"])
        if base.userinfo:
            # httpx would send these in place of the key.
            raise ConfigurationError(["the API's URL must not carry a user name or password"])
        self._base = base

    def url(self, *segments: str) -> httpx.URL:
        """Below the base URL, each segment quoted; ends in `/`, as every path of the API does.

        Raises `httpx.InvalidURL` or `ValueError` for what no URL can carry.
        """
        path = "/".join(_quoted(segment) for segment in segments)
        return httpx.URL(f"{self._base}{path}/")

    def own(self, given: str) -> httpx.URL | None:
        """`given`, resolved, where it is below the base URL; else None.

        What one reader takes for a path and another for a host is not interpreted but refused:
        backslashes, leading double slashes, control characters, user names.
        """
        if len(given) > MAX_URL or not given.isprintable():
            return None
        if "\\" in given or given.startswith("//"):
            return None
        try:
            url = self._base.join(given)
        except (httpx.InvalidURL, ValueError):
            return None
        home = self._base.path
        below = url.path.startswith(home) and url.path != home
        same = _origin(url) == _origin(self._base) and not url.userinfo
        return url if below and same else None


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, port


def _quoted(segment: str) -> str:
    """One path segment, whatever the text: neither `/` nor `..` leads elsewhere."""
    quoted = quote(segment, safe="")
    return quoted.replace(".", "%2E") if set(segment) <= {"."} else quoted
