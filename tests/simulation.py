"""The worker under a virtual clock, against a remote, a broker and processes that misbehave.

One seed is one schedule: which requests get lost, before or after they had their effect; which
messages are dropped, doubled or late; where processes die; who runs while somebody else waits for
an answer. The same seed replays the same schedule. The code under test is the product's own:
steps, store, dispatcher and client; only the wire, the broker and the clock are the simulation's.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import httpx

from worker import enqueue
from worker.dispatcher import Dispatcher
from worker.remote import JudgeAPI
from worker.steps import Policy, Steps
from worker.store.database import Database, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

LEASE = 30.0
DEADLINE = 20.0  # no request reaches the remote later than this after its claim
EXECUTIONS = "/v1/judges/batch-executions/"


class Crash(BaseException):
    """The process dies here: nothing after this line runs, nothing in memory survives."""


@dataclass
class Faults:
    """Chances of each misbehaviour, per occasion."""

    crash: float
    lose_request: float
    lose_answer: float
    server_error: float
    throttle: float
    lie: float
    fail_item: float
    drop_message: float
    double_message: float
    late_message: float
    meanwhile: float  # that others run while a request is under way

    @classmethod
    def drawn(cls, rng: random.Random) -> Faults:
        """Each kind is absent in half of the schedules, so that they also meet alone."""
        names = cls.__dataclass_fields__
        return cls(**{name: rng.choice([0.0, rng.uniform(0.01, 0.25)]) for name in names})

    @classmethod
    def none(cls) -> Faults:
        return cls(**dict.fromkeys(cls.__dataclass_fields__, 0.0))


class World:
    """Time, the remote, the broker and the replicas of one schedule."""

    def __init__(self, seed: int, database: SimulatedDatabase) -> None:
        self.rng = random.Random(seed)
        self.now = 1_800_000_000.0
        self.faults = Faults.drawn(self.rng)
        self.remote = Remote(self)
        self.database = database
        database.world = self
        self.messages: list[tuple[float, str, UUID]] = []
        self.depth = 0
        self.max_in_flight = self.rng.choice([1, 2, 5])
        self.batch_size = self.rng.choice([1, 2, 3, 5])
        self.ids = 0
        self.replicas = [Replica(self) for _ in range(self.rng.choice([1, 2, 3]))]

    def uuid7(self) -> UUID:
        """In the order of their making, as the real ones are, and the same for the same seed."""
        self.ids += 1
        return UUID(int=(int(self.now * 1000) << 80) | (7 << 76) | (2 << 62) | self.ids)

    def happens(self, chance: float) -> bool:
        return self.rng.random() < chance

    def maybe_crash(self) -> None:
        if self.happens(self.faults.crash):
            raise Crash

    def enqueue(self) -> int:
        """Some jobs; every input is one of its kind, so that it can be told who was evaluated."""
        count = 0
        with self.database.engine.begin() as connection:
            for job in range(self.rng.randint(1, 4)):
                size = self.rng.randint(1, 5)
                enqueue(
                    connection,
                    judge_id=f"judge-{self.rng.randint(1, 2)}",
                    inputs=[{"request": f"input {job}.{n}"} for n in range(size)],
                    priority=self.rng.choice([0, 0, 1]),
                )
                count += size
        return count

    def event(self) -> None:
        """One thing happens: a turn, a delivery, or time passes."""
        kind = self.rng.random()
        if kind < 0.3:
            self.now += self.rng.choice([0.1, 1.0, 5.0, 31.0])
        elif kind < 0.6 or not self.messages:
            self._protected(lambda replica: replica.dispatcher.turn())
        else:
            self._deliver()

    def _deliver(self) -> None:
        due = [message for message in self.messages if message[0] <= self.now]
        if not due:
            self.now = min(message[0] for message in self.messages)
            return
        message = self.rng.choice(due)
        if not self.happens(self.faults.double_message):
            self.messages.remove(message)
        _, name, batch_id = message
        self._protected(lambda replica: getattr(replica.steps, name)(batch_id))

    def _protected(self, act: Callable[[Replica], object]) -> None:
        """A replica acts; when it dies, a new process takes its place."""
        place = self.rng.randrange(len(self.replicas))
        try:
            act(self.replicas[place])
        except Crash:
            self.replicas[place] = Replica(self)

    def send(self, name: str, batch_id: UUID, delay: float) -> None:
        self.maybe_crash()
        if self.happens(self.faults.drop_message):
            return
        if self.happens(self.faults.late_message):
            delay += self.rng.uniform(0, 120)
        self.messages.append((self.now + delay, name, batch_id))

    def meanwhile(self, most: float) -> None:
        """While a request is under way, time passes and others act."""
        if self.depth or not self.happens(self.faults.meanwhile):
            return
        self.depth += 1
        until = self.now + self.rng.uniform(0, most)
        while self.now < until and self.happens(0.8):
            self.event()
        # A request that outlasts its deadline is cut off by the client, and never arrives.
        self.now = min(self.now, until) if most <= DEADLINE else self.now
        self.depth -= 1


class SimulatedDatabase(Database):
    """The real one, on which a process can die before and after each commit."""

    world: World

    def run(self, work: Callable[[Transaction], Result]) -> Result:
        world = self.world

        def dying(tx: Transaction) -> Result:
            result = work(tx)
            world.maybe_crash()
            return result

        result = super().run(dying)
        world.maybe_crash()
        return result


class Replica:
    """One process: what it knows in memory is gone when it dies."""

    number = 0

    def __init__(self, world: World) -> None:
        Replica.number += 1
        self.world = world
        api = JudgeAPI(
            base_url="https://judge.test",
            api_key="key",
            transport=httpx.MockTransport(world.remote.answer),
        )
        policy = Policy(
            lease=LEASE,
            max_in_flight=world.max_in_flight,
            poll_min=1.0,
            poll_max=30.0,
            batch_timeout=3600.0,
            max_item_attempts=3,
            tag_batches=world.rng.random() < 0.5,
            resubmit_unlisted=True,
        )
        self.steps = Steps(
            world.database, api, self, policy, holder=f"replica {self.number}", rng=world.rng
        )
        self.dispatcher = Dispatcher(
            world.database,
            self,
            max_in_flight=world.max_in_flight,
            batch_size=world.batch_size,
            linger=0.0,
            monotonic=lambda: world.now,
        )

    def submit(self, batch_id: UUID, *, delay: float = 0.0) -> None:
        self.world.send("submit", batch_id, delay)

    def poll(self, batch_id: UUID, *, delay: float = 0.0) -> None:
        self.world.send("poll", batch_id, delay)

    def room(self) -> None:
        """The dispatcher turns often enough here."""


@dataclass
class Taken:
    """A batch at the remote."""

    id: str
    judge_id: str
    inputs: list[dict[str, Any]]
    tags: list[str]
    created_at: float
    ends_at: float
    failing: set[int] = field(default_factory=set)


class Remote:
    """The judge API, with its own account of what it evaluated."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.batches: dict[str, Taken] = {}
        self.evaluated: Counter[str] = Counter()
        self.shows_tags = world.rng.random() < 0.5

    def running(self) -> int:
        return sum(batch.ends_at > self.world.now for batch in self.batches.values())

    def answer(self, request: httpx.Request) -> httpx.Response:
        world, faults = self.world, self.world.faults
        if world.happens(faults.lose_request):
            kind = world.rng.choice([httpx.ConnectError, httpx.ReadTimeout, httpx.ReadError])
            raise kind("lost on its way", request=request)
        world.meanwhile(DEADLINE)
        if world.happens(faults.server_error):
            return httpx.Response(world.rng.choice([500, 502, 503]), text="oops")
        if world.happens(faults.throttle):
            headers = {"Retry-After": "3"} if world.rng.random() < 0.5 else {}
            return httpx.Response(429, json={"detail": "throttled"}, headers=headers)
        response = self._handle(request)
        world.maybe_crash()
        world.meanwhile(4 * LEASE)
        if world.happens(faults.lose_answer):
            raise httpx.ReadError("lost on its way back", request=request)
        return response

    def _handle(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return self._take(request)
        if request.url.path == EXECUTIONS:
            return self._list(request)
        batch = self.batches[request.url.path.split("/")[-2]]
        return httpx.Response(200, json=self._maybe_lying(self._show(batch)))

    def _take(self, request: httpx.Request) -> httpx.Response:
        body, rng = json.loads(request.content), self.world.rng
        batch_id = str(UUID(int=rng.getrandbits(128), version=4))
        self.batches[batch_id] = Taken(
            batch_id,
            request.url.path.split("/")[3],
            body["inputs"],
            body.get("tags", []),
            self.world.now,
            self.world.now + rng.uniform(0, 60),
            {
                n
                for n in range(len(body["inputs"]))
                if self.world.happens(self.world.faults.fail_item)
            },
        )
        self.evaluated.update(given["request"] for given in body["inputs"])
        answer = {"batch_execution_id": batch_id, "status_url": f"{EXECUTIONS}{batch_id}/"}
        return httpx.Response(202, json=answer)

    def _list(self, request: httpx.Request) -> httpx.Response:
        judge_id = request.url.params["judge_id"]
        rows = []
        for batch in self.batches.values():
            if batch.judge_id == judge_id:
                row = self._show(batch)
                del row["items"]
                rows.append(row)
        return httpx.Response(200, json={"next": None, "previous": None, "results": rows})

    def _show(self, batch: Taken) -> dict[str, Any]:
        ended = self.world.now >= batch.ends_at
        items: list[dict[str, Any]] = []
        for place, given in enumerate(batch.inputs):
            item: dict[str, Any] = {"index": place, "status": "processing", "input": given}
            if ended and place in batch.failing:
                item |= {"status": "failed", "error_message": "the evaluator is down"}
            elif ended:
                result = {"evaluator_name": "echo", "score": 1, "justification": given["request"]}
                item |= {"status": "completed", "evaluator_results": [result]}
            items.append(item)
        self.world.rng.shuffle(items)
        shown: dict[str, Any] = {
            "batch_execution_id": batch.id,
            "status": "completed" if ended else "processing",
            "total_count": len(items),
            "items": items,
        }
        return {**shown, "tags": batch.tags} if self.shows_tags else shown

    def _maybe_lying(self, shown: dict[str, Any]) -> dict[str, Any]:
        if not self.world.happens(self.world.faults.lie):
            return shown
        lie = self.world.rng.randrange(5)
        if lie == 0:
            return {"detail": "an error with status 200"}
        if lie == 1:
            return {**shown, "items": shown["items"][1:]}
        if lie == 2:
            return {**shown, "items": shown["items"] + shown["items"][:1]}
        if lie == 3:
            return {**shown, "batch_execution_id": str(UUID(int=1))}
        return {**shown, "status": "reticulating"}
