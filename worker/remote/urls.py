"""Build the API's URLs, and resolve those in its responses: the key is sent nowhere else."""

from __future__ import annotations

from urllib.parse import quote

import httpx

from worker.errors import ConfigurationError

MAX_URL = 2000  # characters of a status_url; a longer one is ignored


class BaseURL:
    """Where the API is: an origin, and for some installations a path before `/v1`."""

    def __init__(self, base_url: str) -> None:
        try:
            url = httpx.URL(base_url.strip().rstrip("/") + "/")
            url.raw_host.decode("ascii").encode("idna")  # a socket would raise this only later
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ConfigurationError([f"the API's URL cannot be read: {error}"]) from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigurationError(["the API's URL must begin with http:// or https://"])
        if url.userinfo:
            raise ConfigurationError(["the API's URL must not carry a user name or password"])
        self.url = url

    def join(self, *segments: str) -> httpx.URL:
        """Append the segments, quoted, and a final `/`, as every path of the API has one.

        Raises `httpx.InvalidURL` or `ValueError` where a segment cannot be part of a URL.
        """
        path = "/".join(_quoted(segment) for segment in segments)
        return httpx.URL(f"{self.url}{path}/")

    def resolve(self, reference: str) -> httpx.URL | None:
        """Resolve a URL that the remote named; None unless it lies below the base URL.

        References that parsers disagree about are refused, not interpreted: those with
        backslashes, leading double slashes, control characters or user names.
        """
        if len(reference) > MAX_URL or not reference.isprintable():
            return None
        if "\\" in reference or reference.startswith("//"):
            return None
        try:
            url = self.url.join(reference)
        except (httpx.InvalidURL, ValueError):
            return None
        base_path = self.url.path
        is_below = url.path.startswith(base_path) and url.path != base_path
        has_same_origin = _origin(url) == _origin(self.url) and not url.userinfo
        return url if is_below and has_same_origin else None

    def follow(self, page: httpx.URL, reference: str) -> httpx.URL | None:
        """Resolve the reference of one page to the next; None if nothing can be requested.

        Behind a proxy, a server may not know its own address: then its query is used, and no more.
        """
        url = self.resolve(reference)
        query = reference.partition("#")[0].partition("?")[2]
        if url is not None or not query or len(query) > MAX_URL:
            return url
        try:
            return page.copy_with(query=query.encode())
        except (httpx.InvalidURL, ValueError):
            return None


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, port


def _quoted(segment: str) -> str:
    """Quote one path segment so that neither `/` nor `..` in it leads to another path."""
    quoted = quote(segment, safe="")
    return quoted.replace(".", "%2E") if set(segment) <= {"."} else quoted
