"""Make the console's links: below its prefix, with all state in the query."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode


class Links:
    """Builds paths for the page that a request asks for."""

    def __init__(self, prefix: str, path: str, query: Mapping[str, str]) -> None:
        self.prefix = prefix
        self.path = path
        self.query = query

    @property
    def section(self) -> str:
        """Return the first segment of this page's path: its place in the navigation."""
        return self.path.lstrip("/").partition("/")[0]

    def to(self, *segments: object, **query: object) -> str:
        """Return the path of these segments; values of None are left out of the query."""
        path = "/".join(quote(str(segment), safe="") for segment in segments)
        return f"{self.prefix}/{path}{_query(query)}"

    def here(self, **changes: object) -> str:
        """Return this page with another query: what is changed to None is left out."""
        return f"{self.prefix}{quote(self.path)}{_query({**self.query, **changes})}"

    def static(self, name: str, version: str) -> str:
        """Return a file of `static`, under an address that changes with its content."""
        return f"{self.prefix}/static/{name}?v={version}"


def _query(values: Mapping[str, object]) -> str:
    given = {name: str(value) for name, value in values.items() if value not in (None, "")}
    return f"?{urlencode(given, errors='surrogatepass')}" if given else ""
