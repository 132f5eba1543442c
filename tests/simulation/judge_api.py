"""The judge API as it may be, with its own account of what it evaluated."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx

from tests.simulation import invariants
from tests.simulation.faults import happens

if TYPE_CHECKING:
    from tests.simulation.replica import Task
    from tests.simulation.world import World

EXECUTIONS = "/v1/judges/batch-executions/"
DEADLINE = 20.0  # seconds; then the client has given up
UNKNOWN_JUDGE = "judge-unknown"
POISON = "poison"
STRAYS_UNTIL = 40.0  # seconds: no request arrives later after it was sent
LIST_LAG = 10.0  # seconds: nothing stays out of the list for longer


@dataclass
class Taken:
    """A batch at the remote."""

    id: str
    ours: UUID | None  # the batch in our database
    judge_id: str
    inputs: list[dict[str, Any]]
    tags: list[str]
    taken_at: float
    ends_at: float
    listed_at: float
    status: str  # its end
    failing: set[int] = field(default_factory=set)
    missing: list[tuple[float, float]] = field(default_factory=list)  # from, until: 404

    def is_missing(self, now: float) -> bool:
        return any(since <= now < until for since, until in self.missing)


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


class SimulatedJudgeAPI:
    def __init__(self, world: World) -> None:
        rng = world.rng
        self.world = world
        self.batches: dict[str, Taken] = {}
        self.evaluated: Counter[str] = Counter()
        self.posted: dict[UUID, list[str]] = {}  # our batch -> texts it was sent with
        self.wrong_key = self.forbidden = self.outage = (0.0, 0.0)
        self.shows_tags = rng.random() < 0.5
        self.lists = rng.choice(["whole", "whole", "lagging", "paged", "none"])
        self.filters = world.jitter.choice(["kept", "kept", "ignored", "refused"])
        self.most_inputs = rng.choice([100, 100, 100, 1, 2])  # more are too large: 413
        self.skew = world.skew()

    # --- the wire ---

    def transport(self, request: httpx.Request) -> httpx.Response:
        """Called in the greenlet of a task."""
        world = self.world
        invariants.check_throttle(world, request)
        invariants.check_pause(world, request)
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
        if self._in(self.wrong_key):
            return httpx.Response(401, json={"detail": "Invalid API key."})
        if world.strikes("throttle"):
            return self._throttle()
        answer = self._answer(request, task)
        if world.strikes("gateway_error"):
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

    def _answer(self, request: httpx.Request, task: Task) -> httpx.Response:
        if request.method == "POST":
            return self._submit(request, task)
        if request.url.path == EXECUTIONS:
            return self._list(request)
        batch = self.batches[request.url.path.split("/")[-2]]
        if batch.is_missing(self.world.now):
            return httpx.Response(404, json={"detail": "Not found."})
        return self._maybe_lying(self._show(batch))

    def _submit(self, request: httpx.Request, task: Task) -> httpx.Response:
        body = json.loads(request.content)
        judge_id = request.url.path.split("/")[3]
        if judge_id == UNKNOWN_JUDGE:
            return httpx.Response(404, json={"detail": "No such judge."})
        if judge_id == "judge-1" and self._in(self.forbidden):
            return httpx.Response(403, json={"detail": "Not yours."})
        if len(body["inputs"]) > self.most_inputs:
            return httpx.Response(413, text="too large")
        if any(given["request"].startswith(POISON) for given in body["inputs"]):
            return httpx.Response(400, json={"inputs": ["one is poisoned"]})
        batch = self._take(judge_id, body, task)
        invariants.check_taken(self.world, batch)
        answer = {"batch_execution_id": batch.id, "status_url": f"{EXECUTIONS}{batch.id}/"}
        return httpx.Response(202, json=answer)

    def _take(self, judge_id: str, body: dict[str, Any], task: Task) -> Taken:
        world, rng = self.world, self.world.rng
        now, size = world.now, len(body["inputs"])
        lasts = rng.choice([0.0, 0.5, 5.0, 60.0]) * rng.random()
        batch = Taken(
            id=str(UUID(int=(0x4B << 120) | (4 << 76) | (2 << 62) | (len(self.batches) + 1))),
            ours=task.batch_id,
            judge_id=judge_id,
            inputs=body["inputs"],
            tags=body.get("tags", []),
            taken_at=now,
            ends_at=float("inf") if world.strikes("stick") else now + lasts,
            listed_at=now + (rng.uniform(0, LIST_LAG) if self.lists == "lagging" else 0.0),
            status=rng.choice(["completed", "completed", "partial"]),
            failing={place for place in range(size) if world.strikes("fail_item")},
        )
        if world.strikes("fresh_404"):
            batch.missing.append((now, now + rng.uniform(0, 20)))
        if world.strikes("vanish"):
            since = now + rng.uniform(0, 60)
            batch.missing.append((since, since + rng.choice([30.0, 200.0, 1e9])))
        if len(batch.failing) == size and happens(rng, 0.5):
            batch.status = "failed"
        self.batches[batch.id] = batch
        texts = [given["request"] for given in batch.inputs]
        self.evaluated.update(texts)
        if batch.ours is not None:
            self.posted.setdefault(batch.ours, []).extend(texts)
        return batch

    def _list(self, request: httpx.Request) -> httpx.Response:
        if self.lists == "none":
            status = self.world.jitter.choice([400, 404, 405])
            return httpx.Response(status, json={"detail": "no list here"})
        params = request.url.params
        since = datetime.fromisoformat(params["date_from"]).timestamp() - self.skew
        until = float("inf")
        if "date_to" in params:
            until = datetime.fromisoformat(params["date_to"]).timestamp() - self.skew
        rows = []
        for batch in self.batches.values():
            seen = params.get("judge_id") in (None, batch.judge_id)
            seen = seen and since <= batch.taken_at <= until
            if seen and batch.listed_at <= self.world.now and not batch.is_missing(self.world.now):
                row = self._show(batch)
                del row["items"]
                if self.world.strikes("lie"):
                    row["status"] = self.world.jitter.choice(["completed", "processing", "odd"])
                rows.append(row)
        if "status" in params and self.filters != "ignored":
            if self.filters == "refused":
                return httpx.Response(400, json={"status": ["unknown parameter"]})
            rows = [row for row in rows if row["status"] == params["status"]]
        rows.reverse()
        following = None
        if self.lists == "paged":
            start = int(params.get("cursor", 0))
            if len(rows) > start + 2:
                following = f"https://elsewhere.test{EXECUTIONS}?cursor={start + 2}"
            rows = rows[start : start + 2]
        return httpx.Response(200, json={"next": following, "previous": None, "results": rows})

    def _show(self, batch: Taken) -> dict[str, Any]:
        world = self.world
        ended = world.now >= batch.ends_at
        items = [self._item(batch, place, ended) for place in range(len(batch.inputs))]
        if len(items) > 1:
            world.jitter.shuffle(items)
        shown: dict[str, Any] = {
            "batch_execution_id": batch.id,
            "status": batch.status if ended else "processing",
            "total_count": len(items),
            "created_at": datetime.fromtimestamp(batch.taken_at + self.skew, UTC).isoformat(),
            "items": items,
        }
        if ended:
            completed_at = datetime.fromtimestamp(batch.ends_at + self.skew, UTC)
            shown["completed_at"] = completed_at.isoformat()
        return {**shown, "tags": batch.tags} if self.shows_tags else shown

    def _item(self, batch: Taken, place: int, ended: bool) -> dict[str, Any]:
        given = batch.inputs[place]
        item: dict[str, Any] = {"index": place, "status": "processing", "input": given}
        if ended and place in batch.failing:
            return item | {"status": "failed", "error_message": "the evaluator is down"}
        if ended:
            results = [
                {"evaluator_name": name, "score": 1, "justification": given["request"]}
                for name in ("echo", "length")
            ]
            return item | {"status": "completed", "evaluator_results": results}
        return item

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
