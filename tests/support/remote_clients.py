"""Make clients of the judge API whose network is replaced by a given response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from worker.remote import JudgeAPI

BASE = "https://api.example.com"
KEY = "sk-very-secret-0123456789"
ID = "0190c7a2-0000-7000-8000-000000000001"
STANDARD = f"{BASE}/v1/judges/batch-executions/{ID}/"


def api_with(
    response: httpx.Response | Exception | Callable[[httpx.Request], httpx.Response],
    *,
    requests: list[httpx.Request] | None = None,
    base_url: str = BASE,
    **options: Any,
) -> JudgeAPI:
    def handle(request: httpx.Request) -> httpx.Response:
        if requests is not None:
            requests.append(request)
        if isinstance(response, Exception):
            raise response
        return response if isinstance(response, httpx.Response) else response(request)

    transport = httpx.MockTransport(handle)
    return JudgeAPI(base_url=base_url, api_key=KEY, transport=transport, **options)


def accepted(status_url: object = None, status: int = 202) -> httpx.Response:
    return httpx.Response(status, json={"batch_execution_id": ID, "status_url": status_url})
