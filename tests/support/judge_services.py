"""Run a judge service over a stand-in for a model, and submit to it as a client does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.support.judge_files import write_judge
from tests.support.model_endpoint import ModelEndpoint
from tests.support.servers import wait_until
from worker.judge.judges_file import load_definitions
from worker.judge.server import judge_app, running

RUNS = "/v1/judges/batch-executions/"


class Client:
    """Submits to a judge service, and waits for the end."""

    def __init__(self, url: str, key: str = "any") -> None:
        headers = {"Authorization": f"Api-Key {key}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=30)

    def submit(self, inputs: Sequence[dict[str, Any]], **fields: Any) -> httpx.Response:
        path = f"/v1/judges/{fields.pop('judge', 'own')}/batch-execute/"
        return self.http.post(path, json={"inputs": inputs, **fields})

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def ended(self, submitted: httpx.Response) -> Any:
        url = submitted.raise_for_status().json()["status_url"]
        wait_until(lambda: self.get(url)["status"] == "completed")
        return self.get(url)

    def judged(self, inputs: Sequence[dict[str, Any]], **fields: Any) -> Any:
        return self.ended(self.submit(inputs, **fields))["items"]

    def one(self, **fields: Any) -> Any:
        (item,) = self.judged([{"request": "q", "response": "a", **fields}])
        return item


@contextlib.contextmanager
def judging(folder: Path, endpoint: ModelEndpoint, **options: Any) -> Iterator[Client]:
    definitions = load_definitions(write_judge(folder, endpoint.url, **options))
    with running(judge_app(definitions), state=folder / "judge.db") as url:
        client = Client(url)
        with contextlib.closing(client.http):
            yield client
