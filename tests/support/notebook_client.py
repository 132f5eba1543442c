"""A client that works like the vendor's notebook: it submits all chunks, then polls each."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx

ENDED = ("completed", "partial", "failed")


class NotebookClient:
    """Retries failed connections, as any client would, and nothing else."""

    def __init__(
        self, url: str, key: str, *, judge: str, chunk: int = 100, pause: float = 0.2
    ) -> None:
        self.url, self.judge, self.chunk, self.pause = url, judge, chunk, pause
        self.headers = {"Authorization": f"Api-Key {key}"}
        self.interruptions = 0

    def evaluate(self, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the items of all chunks, in the order of the inputs."""
        with httpx.Client(base_url=self.url, headers=self.headers, timeout=30) as client:
            status_urls = [self._submit(client, part) for part in _chunks(inputs, self.chunk)]
            ended = [self._wait(client, status_url) for status_url in status_urls]
        return [item for execution in ended for item in execution["items"]]

    def _submit(self, client: httpx.Client, inputs: Sequence[dict[str, Any]]) -> str:
        path, again = (
            f"/v1/judges/{self.judge}/batch-execute/",
            {"Idempotency-Key": uuid.uuid4().hex},
        )
        answer = self._patiently(
            lambda: client.post(path, json={"inputs": inputs, "tags": ["notebook"]}, headers=again)
        )
        assert answer.status_code == 202, answer.text
        return str(answer.json()["status_url"])

    def _wait(self, client: httpx.Client, status_url: str) -> dict[str, Any]:
        while True:
            answer = self._patiently(lambda: client.get(status_url))
            assert answer.status_code == 200, answer.text
            execution: dict[str, Any] = answer.json()
            if execution["status"] in ENDED:
                return execution
            time.sleep(self.pause)

    def _patiently(self, call: Callable[[], httpx.Response]) -> httpx.Response:
        for _ in range(600):
            try:
                return call()
            except httpx.TransportError:
                self.interruptions += 1
                time.sleep(0.1)
        raise TimeoutError("nothing answers for a minute")


def _chunks(inputs: Sequence[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    given = iter(inputs)
    while part := list(itertools.islice(given, size)):
        yield part
