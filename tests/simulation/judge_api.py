"""The judge API as it may be at its worst, with its own account of what it evaluated."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import httpx

from tests.simulation import invariants
from tests.simulation.faults import happens
from tests.support.fake_judge_api import EXECUTIONS, AcceptedBatch, FakeJudgeAPI, accepted, judge_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.simulation.replica import Task
    from tests.simulation.world import World

Items: TypeAlias = "list[dict[str, Any]]"

DEADLINE = 20.0  # seconds; then the client has given up
UNKNOWN_JUDGE = "judge-unknown"
POISON = "poison"  # such an input is refused with 400
CHOKING = "choking"  # such an input brings a 500
STRAYS_UNTIL = 40.0  # seconds: no request arrives later after it was sent
LIST_LAG = 10.0  # seconds: nothing stays out of the list for longer


@dataclass(kw_only=True)
class SimulatedBatch(AcceptedBatch):
    """A batch of the simulation; times are those of the world."""

    ours: UUID | None  # the batch in our database
    ends_at: float
    listed_at: float
    status: str  # its end
    failing: set[int] = field(default_factory=set)
    strange: str | None = None  # how it is shown, of `WAYS_TO_SHOW` and `WORDS_AT_END`
    missing: list[tuple[float, float]] = field(default_factory=list)  # from, until: 404


def _renumbered(items: Items, numbers: Sequence[Any]) -> Items:
    return [{**item, "index": number} for item, number in zip(items, numbers, strict=True)]


# Items as a strange server shows them; they are given in the order of the inputs.
READABLE: dict[str, Callable[[Items], Items]] = {
    "from 1": lambda items: _renumbered(items, range(1, len(items) + 1)),
    "backwards": lambda items: _renumbered(items, range(len(items))[::-1]),
    "text": lambda items: _renumbered(items, [f" {n}" for n in range(len(items))]),
    "no index": lambda items: _renumbered(items, [None] * len(items)),
    "all 0": lambda items: _renumbered(items, [0] * len(items)),
    "no input": lambda items: [{**item, "input": None} for item in items],
    "from 1, no input": lambda items: [
        {**item, "input": None} for item in _renumbered(items, range(1, len(items) + 1))
    ],
    "capitals": lambda items: [{**item, "status": item["status"].upper()} for item in items],
}
UNREADABLE: dict[str, Callable[[Items], Items]] = {
    "foreign inputs": lambda items: [{**item, "input": {"request": "foreign"}} for item in items],
    "no status": lambda items: [{**item, "status": None} for item in items],
    "odd status": lambda items: [{**item, "status": "odd"} for item in items],
}
WAYS_TO_SHOW = {**READABLE, **UNREADABLE}
WORDS_AT_END = ("CANCELLED", "expired", "COMPLETED", "archived")


class Exchange:
    """A request under way: it goes on when its sender has given up, or is dead."""

    def __init__(self, remote: SimulatedJudgeAPI, request: httpx.Request, task: Task) -> None:
        self.remote = remote
        self.request = request
        self.task = task
        self.answer: httpx.Response | httpx.HTTPError | None = None

    def arrive(self) -> None:
        world = self.remote.world
        world.requests_under_way -= 1
        answer = self.remote.handle(self.request, self.task)
        if world.strikes("lose_answer"):
            error = httpx.ReadError if happens(world.rng, 0.5) else httpx.RemoteProtocolError
            self.end(error("lost on its way back", request=self.request))
        elif world.strikes("slow"):
            world.at(world.rng.uniform(0, DEADLINE), lambda: self.end(answer))
        else:
            self.end(answer)

    def end(self, answer: httpx.Response | httpx.HTTPError) -> None:
        if self.answer is None:
            self.answer = answer
            if self.task is not self.remote.world.running:
                self.remote.world.at(0.0, self.task.resume, self.task.replica)

    def give_up(self) -> None:
        self.end(httpx.ReadTimeout("no answer", request=self.request))


class SimulatedJudgeAPI(FakeJudgeAPI):
    """The tests' fake of the API, which misbehaves by chance, over a wire that does, too."""

    def __init__(self, world: World) -> None:
        super().__init__()
        rng = world.rng
        self.world = world
        self.evaluated: Counter[str] = Counter()
        self.posted: dict[UUID, list[str]] = {}  # our batch -> texts it was sent with
        self.wrong_key = self.forbidden = self.outage = (0.0, 0.0)
        self.old_key = (0.0, 0.0)  # the key of one replica is refused, and the others' is not
        self.deaf = (0.0, 0.0)  # everything has its effect, and is answered with 502
        self.shows_tags = rng.random() < 0.5
        self.lists = rng.choice(["whole", "whole", "lagging", "paged", "none"])
        self.filter = world.jitter.choice(["kept", "kept", "ignored", "refused"])
        self.max_inputs = rng.choice([100, 100, 100, 1, 2])  # more are too large: 413
        self.skew = world.skew()
        self.sender: UUID | None = None  # of the request: the batch in our database

    # --- the wire ---

    def send(self, request: httpx.Request) -> httpx.Response:
        """Send a request of the task that runs, in its greenlet."""
        world = self.world
        invariants.check_throttle(world, request)
        invariants.check_pause(world, request)
        invariants.check_standby(world)
        if world.strikes("refuse") or self._in(self.outage):
            raise httpx.ConnectError("connection refused", request=request)
        task = world.running
        assert task is not None
        exchange, sent_at = Exchange(self, request, task), world.now
        if world.strikes("lose_request"):
            if happens(world.rng, 0.5):
                raise httpx.WriteError("lost on its way", request=request)
            world.at(DEADLINE, exchange.give_up)
        else:
            world.requests_under_way += 1
            if world.strikes("stray"):
                world.at(world.rng.uniform(0, STRAYS_UNTIL), exchange.arrive)
            elif world.strikes("slow"):
                world.at(world.rng.uniform(0, DEADLINE), exchange.arrive)
            else:
                exchange.arrive()
            if exchange.answer is None:
                world.at(DEADLINE, exchange.give_up)
        if exchange.answer is None:
            task.wait()
        world.maybe_crash()
        if isinstance(exchange.answer, httpx.HTTPError):
            raise exchange.answer
        assert exchange.answer is not None
        until = exchange.answer.extensions.get("throttled_until")
        if until is not None and world.now < sent_at + DEADLINE:  # else it is not read any more
            task.throttled.append((self.kind_of(request), until))
        return exchange.answer

    def _in(self, window: tuple[float, float]) -> bool:
        return window[0] <= self.world.now < window[1]

    def kind_of(self, request: httpx.Request) -> str:
        return "submit" if request.method == "POST" else "status"

    # --- the API ---

    def handle(self, request: httpx.Request, task: Task) -> httpx.Response:
        world, rng = self.world, self.world.rng
        if world.strikes("server_error"):
            return httpx.Response(rng.choice([500, 502, 503]), text="oops")
        if self._in(self.wrong_key) or (task.replica.number == 0 and self._in(self.old_key)):
            return httpx.Response(401, json={"detail": "Invalid API key."})
        if world.strikes("throttle"):
            return self._throttle()
        self.sender = task.batch_id
        answer = self.respond(request)
        if world.strikes("gateway_error") or self._in(self.deaf):
            return httpx.Response(rng.choice([502, 504]), text="<html>Bad gateway</html>")
        return answer

    def _throttle(self) -> httpx.Response:
        world = self.world
        headers: dict[str, str] = {}
        extensions: dict[str, Any] = {}
        seconds = world.rng.choice([0, 1, 3, 30, 100])
        how = world.rng.randrange(4)
        moment = datetime.fromtimestamp(world.now + self.skew, UTC)
        if how == 0:
            headers["Retry-After"] = str(seconds)
            extensions["throttled_until"] = world.now + seconds
        elif how == 1:
            then = datetime.fromtimestamp(moment.timestamp() + seconds, UTC)
            headers["Retry-After"] = format_datetime(then, usegmt=True)
            if happens(world.rng, 0.5):
                headers["Date"] = format_datetime(moment, usegmt=True)
                extensions["throttled_until"] = world.now + seconds
        body = {"detail": "throttled"}
        return httpx.Response(429, json=body, headers=headers, extensions=extensions)

    def accept(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        judge_id = judge_of(request)
        if judge_id == UNKNOWN_JUDGE:
            return httpx.Response(404, json={"detail": "No such judge."})
        if judge_id == "judge-1" and self._in(self.forbidden):
            return httpx.Response(403, json={"detail": "Not yours."})
        if len(body["inputs"]) > self.max_inputs:
            return httpx.Response(413, text="too large")
        if any(given["request"].startswith(POISON) for given in body["inputs"]):
            return httpx.Response(400, json={"inputs": ["one is poisoned"]})
        if any(given["request"].startswith(CHOKING) for given in body["inputs"]):
            return httpx.Response(500, json={"detail": "choked"})
        batch = self._evaluate_later(judge_id, body)
        invariants.check_taken(self.world, batch)
        return accepted(batch)

    def _evaluate_later(self, judge_id: str, body: dict[str, Any]) -> SimulatedBatch:
        world, rng = self.world, self.world.rng
        now, size = world.now, len(body["inputs"])
        lasts = rng.choice([0.0, 0.5, 5.0, 60.0]) * rng.random()
        batch = SimulatedBatch(
            id=str(UUID(int=(0x4B << 120) | (4 << 76) | (2 << 62) | (len(self.batches) + 1))),
            ours=self.sender,
            judge_id=judge_id,
            inputs=body["inputs"],
            tags=body.get("tags", []),
            created_at=self._shown_time(now),
            ends_at=float("inf") if world.strikes("stick") else now + lasts,
            listed_at=now + (rng.uniform(0, LIST_LAG) if self.lists == "lagging" else 0.0),
            status=rng.choice(["completed", "completed", "partial"]),
            failing={index for index in range(size) if world.strikes("fail_item")},
        )
        if world.strikes("fresh_404"):
            batch.missing.append((now, now + rng.uniform(0, 20)))
        if world.strikes("vanish"):
            since = now + rng.uniform(0, 60)
            batch.missing.append((since, since + rng.choice([30.0, 200.0, 1e9])))
        if len(batch.failing) == size and happens(rng, 0.5):
            batch.status = "failed"
        if world.strikes("strange"):
            batch.strange = rng.choice([*WAYS_TO_SHOW, *WORDS_AT_END])
        self.batches[batch.id] = batch
        texts = [given["request"] for given in batch.inputs]
        self.evaluated.update(texts)
        if batch.ours is not None:
            self.posted.setdefault(batch.ours, []).extend(texts)
        return batch

    def _shown_time(self, moment: float) -> datetime:
        return datetime.fromtimestamp(moment + self.skew, UTC)

    def show(self, request: httpx.Request) -> httpx.Response:
        shown = super().show(request)
        return self._maybe_lying(shown.json()) if shown.status_code == 200 else shown

    def list(self, request: httpx.Request) -> httpx.Response:
        if self.lists == "none":
            status = self.world.jitter.choice([400, 404, 405])
            return httpx.Response(status, json={"detail": "no list here"})
        return super().list(request)

    def page(self, rows: Sequence[dict[str, Any]], asked: httpx.QueryParams) -> httpx.Response:
        """Return the newest first, and sometimes two at a time."""
        rows, following = rows[::-1], None
        if self.lists == "paged":
            start = int(asked.get("cursor", 0))
            if len(rows) > start + 2:
                following = f"https://elsewhere.test{EXECUTIONS}?cursor={start + 2}"
            rows = rows[start : start + 2]
        return httpx.Response(200, json={"next": following, "previous": None, "results": rows})

    def list_row(self, batch: SimulatedBatch) -> dict[str, Any]:
        row = self.head(batch)
        if self.world.strikes("lie"):
            row["status"] = self.world.jitter.choice(["completed", "processing", "odd"])
        return row

    def head(self, batch: SimulatedBatch) -> dict[str, Any]:
        if not self.has_ended(batch):
            return super().head(batch)
        return super().head(batch) | {"completed_at": self._shown_time(batch.ends_at).isoformat()}

    def execution(self, batch: SimulatedBatch) -> dict[str, Any]:
        shown = super().execution(batch)
        if batch.strange in WAYS_TO_SHOW:
            shown["items"] = WAYS_TO_SHOW[batch.strange](shown["items"])
        elif len(batch.inputs) > 1:
            self.world.jitter.shuffle(shown["items"])
        return shown

    def is_missing(self, batch: SimulatedBatch) -> bool:
        return any(since <= self.world.now < until for since, until in batch.missing)

    def is_listed(self, batch: SimulatedBatch) -> bool:
        return batch.listed_at <= self.world.now and not self.is_missing(batch)

    def has_ended(self, batch: SimulatedBatch) -> bool:
        return self.world.now >= batch.ends_at

    def status_at_end(self, batch: SimulatedBatch) -> str:
        return batch.strange if batch.strange in WORDS_AT_END else batch.status

    def evaluate(self, batch: SimulatedBatch, index: int) -> dict[str, Any]:
        if index in batch.failing:
            return {"status": "failed", "error_message": "the evaluator is down"}
        results = [
            {"evaluator_name": name, "score": 1, "justification": batch.inputs[index]["request"]}
            for name in ("echo", "length")
        ]
        return {"status": "completed", "evaluator_results": results}

    def _maybe_lying(self, shown: dict[str, Any]) -> httpx.Response:
        if not self.world.strikes("lie"):
            return httpx.Response(200, json=shown)
        items = shown["items"]
        lie = self.world.rng.randrange(9)
        if lie == 7:
            return httpx.Response(200, text=json.dumps(shown)[:-20])
        if lie == 8:
            return httpx.Response(404, text="<html>nothing here</html>")
        told: dict[str, Any] = [
            {"detail": "an error with status 200"},
            {**shown, "items": items[1:]},
            {**shown, "items": items + items[:1]},
            {**shown, "batch_execution_id": str(UUID(int=1))},
            {**shown, "status": "reticulating"},
            {**shown, "items": [*items, {**items[0], "index": 77}], "completed_count": 77},
            {**shown, "items": None},
        ][lie]
        return httpx.Response(200, json=told)
