"""What happens outside of the worker: producers, people, and whoever mends the key."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tests.simulation import invariants
from tests.simulation.fast_engine import plain_connection
from tests.simulation.faults import happens
from tests.simulation.judge_api import CHOKING, POISON, UNKNOWN_JUDGE
from worker import enqueue
from worker.domain.lifecycle import ENDED, Status
from worker.errors import IdempotencyKeyReused, NotPossible
from worker.store import batch_commands, job_commands, pauses

if TYPE_CHECKING:
    from tests.simulation.world import World

HOPELESS = (  # reasons for which a batch is on hold
    "no list to search",
    "may have been evaluated",
    "cannot be read",
    "what that means is not known",
    "does not show its inputs",
)
CHOKING_JOBS = """
SELECT DISTINCT i.job_id FROM eval_items i JOIN eval_batches b ON b.id = i.batch_id
WHERE b.state = 'held' AND i.status = 'processing' AND i.request LIKE ?
"""
SPAN = 120.0  # seconds within which things happen outside


class Users:
    def __init__(self, world: World) -> None:
        self.world = world
        self.jobs: list[UUID] = []
        self.keys: dict[str, tuple[UUID, str, list[dict[str, Any]]]] = {}
        self.items = 0
        self.twins = happens(world.rng, 0.2)  # many inputs are the same text

    def plan(self) -> None:
        """Some jobs at once, some things later."""
        world, rng = self.world, self.world.rng
        for _ in range(rng.randint(1, 2)):
            self.enqueue()
        later = [self.enqueue, self.enqueue_without_transaction, self.retry]
        later += [self.cancel, self.cancel, self.cancel]
        later += [self.resolve, world.lose_all_messages, self.pause]
        for act in later:
            if happens(rng, 0.2):
                # Often soon, while the first batches are on their way.
                world.at(rng.choice([1.0, 5.0, SPAN]) * rng.random(), act, outside=True)
        for window in ("wrong_key", "old_key", "forbidden", "outage", "deaf"):
            if happens(rng, 0.1):
                begins = world.now + rng.uniform(0, SPAN / 2)
                setattr(world.remote, window, (begins, begins + rng.uniform(0, SPAN)))
                world.have_heartbeats |= window == "old_key"

    def _inputs(self, count: int) -> list[dict[str, Any]]:
        world, given = self.world, []
        for _ in range(count):
            self.items += 1
            text = f"input {self.items}"
            if self.twins:
                text = f"twin {self.items % 2}"
            elif happens(world.rng, 0.1):
                text = f"{world.rng.choice([POISON, CHOKING])} {self.items}"
            world.allowed[text] += 1
            given.append({"request": text})
        return given

    def _judge(self) -> str:
        return self.world.rng.choice(["judge-1"] * 6 + ["judge-2"] * 3 + [UNKNOWN_JUDGE])

    def enqueue(self) -> None:
        """A job by the library, maybe with a key, and then maybe again by an unsure producer."""
        world, rng = self.world, self.world.rng
        key = f"key {rng.randint(1, 2)}" if happens(rng, 0.2) else None
        known = self.keys.get(key) if key is not None else None
        if known is not None:
            self._enqueue_again(key, *known)
            return
        judge_id, inputs = self._judge(), self._inputs(rng.choice([1, 2, 2, 3, 5]))
        with world.database.engine.begin() as connection:
            job_id = enqueue(
                plain_connection(connection),
                judge_id=judge_id,
                inputs=inputs,
                priority=rng.choice([0, 0, 1]),
                idempotency_key=key,
            )
            self._give_virtual_time(job_id)
        self.jobs.append(job_id)
        if key is not None:
            self.keys[key] = (job_id, judge_id, inputs)

    def _enqueue_again(
        self, key: str | None, job_id: UUID, judge_id: str, inputs: list[dict[str, Any]]
    ) -> None:
        """What is enqueued under a known key is not to be evaluated; other inputs are refused."""
        given = [*inputs, {"request": "never"}] if happens(self.world.rng, 0.5) else inputs
        with (
            self.world.database.engine.begin() as connection,
            pytest.raises(IdempotencyKeyReused) if given != inputs else nullcontext(),
        ):
            same = enqueue(
                plain_connection(connection), judge_id=judge_id, inputs=given, idempotency_key=key
            )
            assert same == job_id, "a key stands for two jobs"

    def enqueue_without_transaction(self) -> None:
        """Plain SQL that commits the job before its inputs, one after the other."""
        world, rng = self.world, self.world.rng
        job_id = world.uuid7()
        self.jobs.append(job_id)
        world.late_jobs.add(str(job_id))
        world.sql(
            "INSERT INTO eval_jobs (id, judge_id) VALUES (?, ?)", (str(job_id), self._judge())
        )
        self._give_virtual_time(job_id)
        when = 0.0
        for index in range(rng.randint(1, 3)):
            when += rng.choice([0.0, 0.3, 20.0])
            world.at(when, partial(self._add_input, job_id, index), outside=True)

    def _add_input(self, job_id: UUID, index: int) -> None:
        (given,) = self._inputs(1)
        self.world.sql(
            "INSERT INTO eval_items (job_id, item_index, request, due_at) VALUES (?, ?, ?, ?)",
            (str(job_id), index, given["request"], self.world.text(self.world.now)),
        )

    def _give_virtual_time(self, job_id: UUID) -> None:
        """The defaults of the tables are the one clock that cannot be replaced."""
        now, given = self.world.text(self.world.now), str(job_id)
        self.world.sql(
            "UPDATE eval_jobs SET created_at = ?, due_at = ? WHERE id = ?", (now, now, given)
        )
        self.world.sql("UPDATE eval_items SET due_at = ? WHERE job_id = ?", (now, given))

    def cancel(self) -> None:
        job_id = self.world.rng.choice(self.jobs)
        self.world.database.run(lambda tx: job_commands.cancel(tx, job_id))

    def retry(self) -> None:
        """A person asks for inputs of a job once more: each may be evaluated again.

        The failed ones, or one, or all that have ended; that is refused while a cancelled one is
        still in a batch that has not.
        """
        world, rng = self.world, self.world.rng
        job_id = rng.choice(self.jobs)
        item_index = rng.choice([0, 1]) if happens(rng, 0.2) else None
        everything = item_index is None and happens(rng, 0.3)
        statuses = ENDED if everything or item_index is not None else {Status.FAILED}
        again = [
            request
            for index, status, request in world.sql(
                "SELECT item_index, status, request FROM eval_items WHERE job_id = ?",
                (str(job_id),),
            )
            if status in statuses and item_index in (None, index)
        ]
        try:
            moved = world.database.run(
                lambda tx: job_commands.retry(
                    tx, job_id, everything=everything, item_index=item_index
                )
            )
        except NotPossible:
            return
        assert moved == len(again)
        world.allowed.update(again)

    def resolve(self, *, calm: bool = False) -> None:
        """A person says how each held batch goes on; to send it again is on them.

        When all is calm, they send again what nobody can search for, read or understand, and
        cancel what the judge chokes on.
        """
        world = self.world
        if calm:
            for (job_id,) in world.sql(CHOKING_JOBS, (f"{CHOKING}%",)):
                world.database.run(partial(job_commands.cancel, job_id=UUID(job_id)))
        for batch_id, error in world.sql("SELECT id, error FROM eval_batches WHERE state = 'held'"):
            again = happens(world.rng, 0.3)
            if calm:
                again = any(words in error for words in HOPELESS)
            if again:
                texts = world.sql("SELECT request FROM eval_items WHERE batch_id = ?", (batch_id,))
                world.allowed.update(text for (text,) in texts)
            world.database.run(
                partial(batch_commands.resolve, batch_id=UUID(batch_id), resubmit=again)
            )

    def pause(self) -> None:
        """A person stops a judge, or all, and lets it go on later; maybe somebody else earlier."""
        world, rng = self.world, self.world.rng
        judge_id = rng.choice([None, "judge-1", "judge-2"])
        world.database.run(lambda tx: pauses.pause(tx, judge_id, "by a person"))
        world.pauses.setdefault(judge_id, world.now)
        world.at(rng.choice([1.0, 10.0, SPAN]), partial(self.resume, judge_id), outside=True)

    def resume(self, judge_id: str | None) -> None:
        self.world.pauses.pop(judge_id, None)
        self.world.database.run(lambda tx: pauses.resume(tx, judge_id))

    def mend(self) -> None:
        """All is well again, but for what the remote is by nature."""
        self.world.remote.wrong_key = self.world.remote.forbidden = (0.0, 0.0)
        self.world.remote.old_key = (0.0, 0.0)  # its replica still has to find that out by a try
        self.world.remote.outage = self.world.remote.deaf = (0.0, 0.0)
        invariants.check_always(self.world)
