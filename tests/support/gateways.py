"""Run the gateway on a real port, with keys for the tests."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import httpx

from worker.config import load_settings
from worker.gateway.server import serving_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.store.database import Database

KEY = "the-key-of-team-a"
OTHER_KEY = "the-key-of-team-b"
NARROW_KEY = "only-for-one-judge"
SLOW_KEY = "only-one-request-now"
KEYS = {
    "team-a": {"key": KEY},
    "team-b": {"key": OTHER_KEY},
    "narrow": {"key": NARROW_KEY, "judges": ["math"]},
    "slow": {"key": SLOW_KEY, "requests_per_second": 0.01},
}
JSON_KEYS = json.dumps(KEYS)


def client(url: str, key: str | None = KEY) -> httpx.Client:
    """Return a plain HTTP client, as any caller would use it."""
    headers = {} if key is None else {"Authorization": f"Api-Key {key}"}
    return httpx.Client(base_url=url, headers=headers, timeout=30)


@contextlib.contextmanager
def running_gateway(database: Database, **settings: Any) -> Iterator[str]:
    """Yield the URL of a gateway; settings are named without the prefix `gateway_`."""
    given = {f"gateway_{name}": value for name, value in settings.items()}
    defaults = {"gateway_port": 0, "gateway_keys": JSON_KEYS}
    with serving_gateway(load_settings(**(defaults | given)), database) as url:
        yield url


def submit(
    given: httpx.Client, *requests: str, judge: str = "judge", key: str | None = None, **more: Any
) -> httpx.Response:
    """POST one input for each text."""
    inputs = [{"request": text, "response": "…"} for text in requests]
    return given.post(
        f"/v1/judges/{judge}/batch-execute/",
        json={"inputs": inputs, **more},
        headers={} if key is None else {"Idempotency-Key": key},
    )


def answers(url: str) -> bool:
    """Return whether a gateway serves there."""
    try:
        return httpx.get(f"{url}/openapi.json", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def problem(response: httpx.Response) -> tuple[int, str]:
    """Return the response's status and code, after checking that the body is complete."""
    body = response.json()
    assert body.keys() == {"type", "status", "title", "detail", "instance", "code"}
    assert body["status"] == response.status_code
    return response.status_code, body["code"]


def ids(page: Any) -> list[str]:
    return [row["batch_execution_id"] for row in page["results"]]
