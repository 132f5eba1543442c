"""No cookies: what one answer sets must not change, or be shown in, another request."""

from __future__ import annotations

from http.cookiejar import CookieJar
from typing import Any


class NoCookies(CookieJar):
    """Keeps none."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        del response, request
