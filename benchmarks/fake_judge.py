"""A fake of the judge API that costs little; `fake_judge_server` runs it in its own process.

It counts the inputs of a submission and responds with prepared results. It ignores the key and
evaluates nothing. `Options` set how long a batch takes, the limits of batches and requests, whether
there is a list, and how long responses are.
"""

from __future__ import annotations

import json
import random
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from heapq import heappop, heappush
from itertools import islice
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

EXECUTIONS = "/v1/judges/batch-executions/"
PAGE = 100  # batches
WORDS = (
    *("the", "response", "is", "to", "the", "point", "and", "answers", "what", "was", "asked"),
    *("but", "it", "leaves", "out", "a", "step", "—", "the", "second", "one", "of", "three"),
    *("sources", "are", "named", "none", "of", "them", "supports", "this", "claim", "fully"),
)
NOT_FOUND = 404, b'{"code":"not_found","detail":"Not found."}'
THROTTLED = 429, b'{"code":"throttled","detail":"Request was throttled."}'


@dataclass(frozen=True, slots=True)
class Options:
    latency: tuple[float, float] = (0.0, 0.0)  # seconds that a batch takes, at least and at most
    max_running: int | None = None  # one batch more is refused with 429
    max_requests_per_second: int | None = None  # of any kind; more are refused with 429
    submit_seconds: float = 0.0  # from the acceptance of a batch to the response
    has_list: bool = True
    evaluators: int = 2
    justification: int = 0  # characters, at least
    shows_inputs: bool = False  # in each item, as the API does; to do so costs a little


@dataclass(slots=True)
class Batch:
    id: str
    judge_id: str
    size: int
    created_at: float
    ends_at: float
    running: str  # how it is shown while it runs
    ended: str  # how it is shown afterwards
    submission: bytes = b""  # kept if its inputs are to be shown

    def has_ended(self) -> bool:
        return time.time() >= self.ends_at


@dataclass
class Observations:
    """What the fake judge API observed; times are those of `time.time`."""

    requests: dict[str, int] = field(default_factory=dict)  # by kind
    throttled: int = 0
    sizes: list[int] = field(default_factory=list)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)  # by batch: begin, end
    seen: dict[str, float] = field(default_factory=dict)  # by batch: first shown since `forget`

    def count(self, kind: str) -> None:
        self.requests[kind] = self.requests.get(kind, 0) + 1

    @property
    def batches(self) -> int:
        return len(self.spans)

    @property
    def asked(self) -> int:
        return sum(self.requests.values())


class FakeJudge:
    """Responds to one request at a time."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.batches: dict[str, Batch] = {}
        self.accepted: list[Batch] = []  # oldest first
        self.running: list[float] = []  # a heap of end times
        self.bucket = _Bucket()
        self.observed = Observations()
        self.rng = random.Random(1)

    # --- for the benchmarks ---

    def observations(self) -> Observations:
        return self.observed

    def change(self, **options: Any) -> None:
        """Change options from now on."""
        self.options = replace(self.options, **options)

    def forget(self) -> None:
        """Forget which batches were shown."""
        self.observed.seen.clear()

    # --- for the worker ---

    def respond(self, method: bytes, target: str, body: bytes) -> tuple[int, bytes]:
        path, _, query = target.partition("?")
        listing = path == EXECUTIONS
        kind = "submit" if method == b"POST" else "list" if listing else "status"
        self.observed.count(kind)
        limit = self.options.max_requests_per_second
        if limit is not None and not self.bucket.take(limit):
            self.observed.throttled += 1
            return THROTTLED
        if kind == "submit":
            return self._accept(path.split("/")[3], body)
        return self._list(query) if listing else self._show(path.split("/")[-2])

    def _accept(self, judge_id: str, body: bytes) -> tuple[int, bytes]:
        now = datetime.now(UTC).timestamp()  # as precise as its ISO form
        while self.running and self.running[0] <= now:
            heappop(self.running)
        limit = self.options.max_running
        if limit is not None and len(self.running) >= limit:
            self.observed.throttled += 1
            return THROTTLED
        ends_at = now + self.rng.uniform(*self.options.latency)
        batch = _batch(judge_id, body.count(b'"request":'), now, ends_at)
        if self.options.shows_inputs:
            batch.submission = body
        self.batches[batch.id] = batch
        self.accepted.append(batch)
        heappush(self.running, ends_at)
        self.observed.sizes.append(batch.size)
        self.observed.spans[batch.id] = now, ends_at
        made = f'{{"batch_execution_id":"{batch.id}","status_url":"{EXECUTIONS}{batch.id}/"}}'
        return 202, made.encode()

    def _show(self, batch_id: str) -> tuple[int, bytes]:
        batch = self.batches.get(batch_id)
        if batch is None:
            return NOT_FOUND
        head = self._head(batch)
        size = batch.size if head is batch.ended else 0
        items = _items(size, self.options.evaluators, self.options.justification)
        if batch.submission and items:
            inputs = json.loads(batch.submission)["inputs"]
            items = tuple(map(_with_input, items, inputs))
        return 200, b'%s,"items":[%s]}' % (head.encode(), b",".join(items))

    def _list(self, query: str) -> tuple[int, bytes]:
        if not self.options.has_list:
            return NOT_FOUND
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        size = min(int(asked.get("page_size", PAGE)), PAGE)
        found = list(islice(self._newest_first(asked), size + 1))
        more = len(found) > size
        following = f'"http://any{EXECUTIONS}?cursor={found[size][0]}"' if more else "null"
        rows = ",".join(self._head(batch) + "}" for _, batch in found[:size])
        return 200, f'{{"next":{following},"previous":null,"results":[{rows}]}}'.encode()

    def _newest_first(self, asked: dict[str, str]) -> Iterator[tuple[int, Batch]]:
        """Yield batches with their index, which is the cursor, without reading older ones."""
        first, last = 0, len(self.accepted) - 1
        if "date_from" in asked:
            first = bisect_left(self.accepted, _seconds(asked["date_from"]), key=_created_at)
        if "date_to" in asked:
            last = bisect_right(self.accepted, _seconds(asked["date_to"]), key=_created_at) - 1
        for index in range(int(asked.get("cursor", last)), first - 1, -1):
            batch = self.accepted[index]
            if asked.get("judge_id", batch.judge_id) != batch.judge_id:
                continue
            status = "completed" if batch.has_ended() else "processing"
            if asked.get("status", status) == status:
                yield index, batch

    def _head(self, batch: Batch) -> str:
        self.observed.seen.setdefault(batch.id, time.time())
        return batch.ended if batch.has_ended() else batch.running


def _batch(judge_id: str, size: int, now: float, ends_at: float) -> Batch:
    batch_id = str(uuid4())
    created, completed = (
        f'"{datetime.fromtimestamp(at, UTC).isoformat()}"' for at in (now, ends_at)
    )

    def shown(status: str, completed_at: str) -> str:
        """Return the object without its closing brace."""
        return (
            f'{{"batch_execution_id":"{batch_id}","status":"{status}","total_count":{size},'
            f'"created_at":{created},"started_at":{created},"completed_at":{completed_at}'
        )

    running, ended = shown("processing", "null"), shown("completed", completed)
    return Batch(batch_id, judge_id, size, now, ends_at, running, ended)


def _created_at(batch: Batch) -> float:
    return batch.created_at


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


class _Bucket:
    """A token bucket that holds the requests of one second."""

    def __init__(self) -> None:
        self.left = float("inf")
        self.at = time.monotonic()

    def take(self, per_second: int) -> bool:
        now = time.monotonic()
        self.left = min(self.left + (now - self.at) * per_second, per_second)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


@lru_cache
def _items(size: int, evaluators: int, length: int) -> tuple[bytes, ...]:
    items = [
        {
            "index": index,
            "status": "completed",
            "evaluator_results": [
                {
                    "evaluator_name": f"evaluator {number}",
                    "score": round(index / 100, 2),
                    "justification": _justification(f"{index}.{number}", length),
                }
                for number in range(evaluators)
            ],
            "error_message": "",
            "execution_log_id": None,
        }
        for index in range(size)
    ]
    return tuple(_json(item) for item in items)


def _with_input(item: bytes, sent: object) -> bytes:
    return b'%s,"input":%s}' % (item[:-1], _json(sent))


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _justification(point: str, length: int) -> str:
    """Return a sentence, with words by chance up to the length; they have a dash, as texts do."""
    text = f"The response was weighed against point {point}."
    rng = random.Random(point)
    words = [f" {rng.choice(WORDS)}" for _ in range(max(0, length - len(text)) // 5)]
    return f"{text}{''.join(words)}"[: max(length, len(text))]
