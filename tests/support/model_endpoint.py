"""A stand-in for an OpenAI-compatible endpoint: it obeys the schema, and misbehaves by a seed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.http_server import bind_socket, serve_in_background

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

FORMATS = ("json_schema", "json_object", "text")
INPUT_TOKENS, OUTPUT_TOKENS = 100, 20  # of each paid call


class DroppedResponse(Response):
    """The connection is closed in the middle of the response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


def chance(*what: object) -> float:
    text = "\x1f".join(map(str, what))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]) / 2**56


def steady_score(payload: dict[str, Any]) -> float:
    return round(chance("score", json.dumps(payload, sort_keys=True)), 2)


@dataclass
class ModelEndpoint:
    """Counts what it was asked and what had to be paid for.

    `faults` are shares of requests, by name: throttled, error, dropped (none of them is paid), cut,
    prose, out_of_range, unreadable and slow. Which tries of a question meet them depends on the
    seed alone, and not on when the other questions are asked.
    """

    seed: int = 0
    faults: dict[str, float] = field(default_factory=dict)
    formats: tuple[str, ...] = FORMATS
    score: Callable[[dict[str, Any]], float] = steady_score
    answers: list[Any] = field(default_factory=list)  # for the next requests: a text or a Response
    seconds: float = 0.0
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    _now: int = 0
    _tries: Counter[str] = field(default_factory=Counter)

    @property
    def paid(self) -> int:
        return self.counts["paid"]

    @contextlib.contextmanager
    def running(self) -> Iterator[ModelEndpoint]:
        route = Route("/v1/chat/completions", self._complete, methods=["POST"])
        with bind_socket("127.0.0.1", 0) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            with serve_in_background(Starlette(routes=[route]), listener, name="model"):
                yield self

    async def _complete(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            return await self._respond(body)
        finally:
            self._now -= 1

    async def _respond(self, body: dict[str, Any]) -> Response:
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.answers:
            answer = self.answers.pop(0)
            return answer if isinstance(answer, Response) else self._pay(answer)
        wanted = body.get("response_format", {"type": "text"})["type"]
        if wanted not in self.formats:
            detail = {"error": {"message": f"response_format {wanted} is not supported"}}
            return JSONResponse(detail, 400)
        fault = self._fault(json.dumps(body["messages"]))
        self.counts[fault] += 1
        if fault == "throttled":
            return JSONResponse({"error": {"message": "slow down"}}, 429)
        if fault == "error":
            return Response("upstream failed", 502)
        if fault == "dropped":
            return DroppedResponse()
        if fault == "slow":
            await asyncio.sleep(0.2)
        payload = json.loads(body["messages"][-1]["content"])
        verdict = json.dumps({"reasons": f"As {payload} shows.", "score": self.score(payload)})
        match fault:
            case "cut":
                return self._pay(verdict[: len(verdict) // 2], "length")
            case "prose":
                return self._pay(f'Not {{"score": 9}} but:\n```json\n{verdict}\n```\nIs it {{ok}}?')
            case "out_of_range":
                return self._pay('{"reasons": "Out of ten.", "score": 8}')
            case "unreadable":
                return self._pay("I would rather not say.")
        return self._pay(verdict)

    def _fault(self, question: str) -> str:
        self._tries[question] += 1
        at = chance(self.seed, question, self._tries[question])
        for name, share in self.faults.items():
            at -= share
            if at < 0:
                return name
        return "none"

    def _pay(self, text: str | None, finish_reason: str = "stop") -> Response:
        self.counts["paid"] += 1
        return completion(text, finish_reason)


def completion(text: str | None, finish_reason: str = "stop") -> Response:
    return JSONResponse(
        {
            "choices": [
                {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
            ],
            "usage": {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS},
        }
    )
