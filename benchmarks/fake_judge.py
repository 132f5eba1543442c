"""The batches of the stand-in, and its answers; `remote` serves them in a process of their own.

It reads of a submission only how many inputs it has, and answers with texts made beforehand. It
does not look at the key, keep the inputs, or evaluate anything. `Options` say how long a batch
takes, how many may run and how many requests may come at once, and whether there is a list.
"""

from __future__ import annotations

import json
import random
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from heapq import heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator

EXECUTIONS = "/v1/judges/batch-executions/"
PAGE = 100  # batches
NOT_FOUND = 404, b'{"code":"not_found","detail":"Not found."}'
THROTTLED = 429, b'{"code":"throttled","detail":"Request was throttled."}'


@dataclass(frozen=True, slots=True)
class Options:
    """Of the stand-in; seconds."""

    latency: tuple[float, float] = (0.0, 0.0)
    max_running: int | None = None  # batches; one more is answered 429
    max_requests_per_second: int | None = None  # a second, of any kind; more are answered 429
    has_list: bool = True
    evaluators: int = 2


@dataclass(slots=True)
class Batch:
    id: str
    judge_id: str
    size: int
    created_at: float
    ends_at: float
    running: str  # what is shown of it, while it runs and afterwards
    ended: str

    def has_ended(self) -> bool:
        return time.time() >= self.ends_at


@dataclass
class Observations:
    """What the stand-in saw; moments are those of `time.time`."""

    requests: dict[str, int] = field(default_factory=dict)  # by kind
    throttled: int = 0
    sizes: list[int] = field(default_factory=list)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)  # by batch: taken, ends
    seen: dict[str, float] = field(default_factory=dict)  # by batch: first shown, since `forget`

    def count(self, kind: str) -> None:
        self.requests[kind] = self.requests.get(kind, 0) + 1

    @property
    def batches(self) -> int:
        return len(self.spans)

    @property
    def asked(self) -> int:
        return sum(self.requests.values())


class FakeJudge:
    """The batches and the account; one answer per request."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.batches: dict[str, Batch] = {}
        self.taken: list[Batch] = []  # the oldest first
        self.running: list[float] = []  # a heap of ends
        self.bucket = _Bucket()
        self.observed = Observations()
        self.rng = random.Random(1)

    # --- what a benchmark asks of it ---

    def observations(self) -> Observations:
        return self.observed

    def change(self, **options: Any) -> None:
        """Other options from now on."""
        self.options = replace(self.options, **options)

    def forget(self) -> None:
        """No batch was ever shown to anybody."""
        self.observed.seen.clear()

    # --- what the worker asks of it ---

    def answer(self, method: bytes, target: str, body: bytes) -> tuple[int, bytes]:
        path, _, query = target.partition("?")
        listing = path == EXECUTIONS
        kind = "submit" if method == b"POST" else "list" if listing else "status"
        self.observed.count(kind)
        most = self.options.max_requests_per_second
        if most is not None and not self.bucket.has_one(most):
            self.observed.throttled += 1
            return THROTTLED
        if kind == "submit":
            return self._take(path.split("/")[3], body)
        return self._list(query) if listing else self._show(path.split("/")[-2])

    def _take(self, judge_id: str, body: bytes) -> tuple[int, bytes]:
        now = datetime.now(UTC).timestamp()  # as precise as it is in words
        while self.running and self.running[0] <= now:
            heappop(self.running)
        most = self.options.max_running
        if most is not None and len(self.running) >= most:
            self.observed.throttled += 1
            return THROTTLED
        ends_at = now + self.rng.uniform(*self.options.latency)
        batch = _made(judge_id, body.count(b'"request":'), now, ends_at)
        self.batches[batch.id] = batch
        self.taken.append(batch)
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
        return 200, head.encode() + _items(size, self.options.evaluators)

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
        """With the place of each, which is its cursor; costs what it passes, not all there is."""
        first, last = 0, len(self.taken) - 1
        if "date_from" in asked:
            first = bisect_left(self.taken, _seconds(asked["date_from"]), key=_made_at)
        if "date_to" in asked:
            last = bisect_right(self.taken, _seconds(asked["date_to"]), key=_made_at) - 1
        for place in range(int(asked.get("cursor", last)), first - 1, -1):
            batch = self.taken[place]
            if asked.get("judge_id", batch.judge_id) != batch.judge_id:
                continue
            status = "completed" if batch.has_ended() else "processing"
            if asked.get("status", status) == status:
                yield place, batch

    def _head(self, batch: Batch) -> str:
        self.observed.seen.setdefault(batch.id, time.time())
        return batch.ended if batch.has_ended() else batch.running


def _made(judge_id: str, size: int, now: float, ends_at: float) -> Batch:
    batch_id = str(uuid4())
    created, completed = (
        f'"{datetime.fromtimestamp(at, UTC).isoformat()}"' for at in (now, ends_at)
    )

    def shown(status: str, completed_at: str) -> str:
        """Without the brace that closes it."""
        return (
            f'{{"batch_execution_id":"{batch_id}","status":"{status}","total_count":{size},'
            f'"created_at":{created},"started_at":{created},"completed_at":{completed_at}'
        )

    running, ended = shown("processing", "null"), shown("completed", completed)
    return Batch(batch_id, judge_id, size, now, ends_at, running, ended)


def _made_at(batch: Batch) -> float:
    return batch.created_at


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


class _Bucket:
    """Requests that may come: as many a second as allowed, of which a second's worth is kept."""

    def __init__(self) -> None:
        self.left = float("inf")
        self.at = time.monotonic()

    def has_one(self, a_second: int) -> bool:
        now = time.monotonic()
        self.left = min(self.left + (now - self.at) * a_second, a_second)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


@lru_cache
def _items(size: int, evaluators: int) -> bytes:
    items = [
        {
            "index": place,
            "status": "completed",
            "evaluator_results": [
                {
                    "evaluator_name": f"evaluator {number}",
                    "score": round(place / 100, 2),
                    "justification": f"The response was weighed against point {place}.{number}.",
                }
                for number in range(evaluators)
            ],
            "error_message": "",
            "execution_log_id": None,
        }
        for place in range(size)
    ]
    return f',"items":{json.dumps(items)}}}'.encode()
