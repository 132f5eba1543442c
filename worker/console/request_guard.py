"""Refuse what no page should see: foreign hosts and cross-site changes; protect each response."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
PROTECTION = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not `no-referrer`, with which browsers send `Origin: null` even to the same origin.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SAFE_METHODS = ("GET", "HEAD")


def is_loopback(host: str) -> bool:
    """Return whether a host, as a setting or a header has it, is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class RequestGuard:
    """ASGI middleware around every path, static files and errors included.

    With `local_only`, a page of another site could otherwise reach the console under a name of its
    own that it points to 127.0.0.1 (DNS rebinding): only names of this machine are served.
    """

    def __init__(self, app: ASGIApp, *, prefix: str, local_only: bool) -> None:
        self._app = app
        self._prefix = prefix
        self._local_only = local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in PROTECTION.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        if refusal := self._refusal(scope["method"], headers):
            status, reason = refusal
            await PlainTextResponse(f"{reason}\n", status)(scope, receive, send_protected)
            return
        scope = {**scope, "path": self._path(scope["path"]), "root_path": ""}
        await self._app(scope, receive, send_protected)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            return 400, "A request must have one Host header."
        if self._local_only and not is_loopback(_host_name(hosts[0])):
            return 421, "Without keys, the console accepts requests for localhost only."
        if method not in SAFE_METHODS and not _is_same_origin(headers, hosts[0]):
            return 403, "This change was asked for by another site, so it was not made."
        return None

    def _path(self, path: str) -> str:
        """Return a path as routes have it: without the prefix, which some proxies strip and others
        do not, and without a slash at its end.
        """
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            path = path.removeprefix(self._prefix)
        return path.rstrip("/") or "/"


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_same_origin(headers: Headers, host: str) -> bool:
    """Trust the browser's own word; older ones and plain HTTP only have Origin."""
    if (site := headers.get("sec-fetch-site")) is not None:
        return site == "same-origin"
    try:
        return urlsplit(headers.get("origin", "")).netloc == host
    except ValueError:
        return False
