"""Evaluate what waits: ask for samples one after the other, and commit each before the next.

Each model has as many tasks as it may have calls at a time. Each task has at most one call whose
response is not yet committed: that is what a killed process pays for again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog

from worker.domain.phrases import one_line
from worker.judge.endpoint import Endpoint, QuestionRefused
from worker.judge.judges import Judge, Prompted
from worker.judge.judges_file import Definitions
from worker.judge.ledger import Account, Ledger, Sample
from worker.judge.prompt import Message, has_words, messages, prompt_key, with_last_turns
from worker.judge.verdict import Mean, Unreadable, Verdict, mean_of, read_verdict

STORE_SECONDS = 1.0  # between two tries to write the state file
MORE_ROOM = 4  # times the usual maximum, for the second try

log = structlog.get_logger("evalworker")


class Failed(Exception):
    """An evaluation has no score; the message says why."""


class Engine:
    """Not thread-safe: use it on one event loop."""

    def __init__(
        self,
        definitions: Definitions,
        ledger: Ledger,
        *,
        patience: float | None = None,
        make_endpoint: Callable[..., Endpoint] = Endpoint,
    ) -> None:
        self.ledger = ledger
        self.definitions = definitions
        self.endpoints: dict[str, Endpoint] = {
            alias: make_endpoint(
                alias,
                model,
                budget=lambda alias=alias: self._spent_budget(alias),
                on_wait=ledger.set_wait,
                patience=patience,
            )
            for alias, model in definitions.models.items()
        }
        self._queues: dict[str, asyncio.Queue[int]] = {}
        self._locks: dict[str, tuple[asyncio.Lock, list[None]]] = {}
        self._versions: dict[str, Judge] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work in the background, beginning with what an earlier process left."""
        for alias in self.ledger.waits():
            self.ledger.set_wait(alias, None)
        self._queues = {alias: asyncio.Queue() for alias in self.endpoints}
        self.add(self.ledger.all_waiting())
        tasks = [
            asyncio.create_task(self._work(self._queues[alias]))
            for alias, endpoint in self.endpoints.items()
            for _ in range(endpoint.model.concurrency)
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.close()

    async def close(self) -> None:
        for endpoint in self.endpoints.values():
            await endpoint.close()

    def add(self, numbers: Sequence[int]) -> None:
        """Queue evaluations that the ledger has; those without a model fail."""
        for number in numbers:
            version_id, position = self.ledger.version_of(number)
            part = self._part(version_id, position)
            if self.definitions.model_of(part) is None:
                self._give_up(number, f"the model {part.model!r} is no longer in judges.toml")
            else:
                self._queues[part.alias].put_nowait(number)

    def why_waiting(self, judge: Judge) -> str:
        """Return why evaluations of this judge do not go on, or an empty text."""
        aliases = {part.alias for part in judge.evaluators if isinstance(part, Prompted)}
        reasons = (
            self.endpoints[alias].waits_for for alias in sorted(aliases) if alias in self.endpoints
        )
        return "; ".join(reason for reason in reasons if reason)

    async def evaluate(
        self, part: Prompted, fields: Mapping[str, Any], samples: int, account: Account
    ) -> Mean | None:
        """Return the mean of samples, None where there is nothing to judge; or raise `Failed`."""
        fields = with_last_turns(fields)
        if "response" in part.evaluator.requires and not has_words(fields.get("response")):
            return None
        asked = messages(part.evaluator, fields)
        key = prompt_key(part.evaluator.version_id, part.model, asked)
        async with self._one_at_a_time(key):
            verdicts = [
                await self._sample(part.alias, asked, (key, n), account) for n in range(samples)
            ]
        return mean_of(verdicts)

    async def _work(self, queue: asyncio.Queue[int]) -> None:
        while True:
            number = await queue.get()
            try:
                await self._end(number)
            except Exception as error:  # the task serves all other evaluations, too
                log.exception("judge.evaluation_failed", number=number)
                reason = f"unexpected {type(error).__name__}; the log has more"
                await self._store(partial(self._give_up, number, reason))

    def _give_up(self, number: int, reason: str) -> None:
        """End an evaluation that cannot be done, as trying again would be paid for each time."""
        version_id, position = self.ledger.version_of(number)
        part = self._part(version_id, position)
        account = self._account(version_id, part)
        self.ledger.end(number, account, None, f"{part.name}: {reason}")

    async def _end(self, number: int) -> None:
        waiting = self.ledger.waiting(number)
        if waiting is None:
            return
        part = self._part(waiting.version_id, waiting.position)
        account = self._account(waiting.version_id, part)
        samples = self.version(waiting.version_id).samples
        result: dict[str, Any] | None = None
        reason: str | None = None
        try:
            mean = await self.evaluate(part, waiting.input, samples, account)
        except Failed as error:
            reason = f"{part.name}: {error}"
        else:
            result = result_of(part, mean)
        await self._store(lambda: self.ledger.end(number, account, result, reason))

    async def _sample(
        self, alias: str, asked: list[Message], place: tuple[str, int], account: Account
    ) -> Verdict:
        """Return a known sample, or ask for one: a second time with more room if need be."""
        known = self.ledger.sample(*place)
        if known is not None and known.verdict is not None:
            await self._store(partial(self.ledger.count_hit, account))
            return known.verdict
        room = self.endpoints[alias].model.max_output_tokens
        tries = [room, room * MORE_ROOM] if known is None else [room * MORE_ROOM]
        reason = ""
        for max_tokens in tries:
            read = await self._ask(alias, asked, max_tokens, place, account)
            if isinstance(read, Verdict):
                return read
            reason = read.reason
        await self._store(partial(self.ledger.forget_sample, *place))
        raise Failed(f"{reason}, twice")

    async def _ask(
        self,
        alias: str,
        asked: list[Message],
        max_tokens: int,
        place: tuple[str, int],
        account: Account,
    ) -> Verdict | Unreadable:
        endpoint = self.endpoints[alias]
        try:
            reply = await endpoint.ask(asked, max_tokens)
        except QuestionRefused as error:
            raise Failed(one_line(str(error), 500)) from None
        read = read_verdict(reply.text, reply.finish_reason)
        sample = Sample(read, None) if isinstance(read, Verdict) else Sample(None, read.reason)
        tokens = (reply.input_tokens, reply.output_tokens)
        cost = endpoint.model.cost(*tokens)
        await self._store(
            lambda: self.ledger.add_sample(*place, sample, account, tokens=tokens, cost=cost)
        )
        return read

    async def _store(self, write: Callable[[], None]) -> None:
        """Write what was paid for, however long the disk is full."""
        while True:
            try:
                return write()
            except sqlite3.OperationalError as error:
                log.warning("judge.state_cannot_be_written", reason=str(error))
                await asyncio.sleep(STORE_SECONDS)

    @asynccontextmanager
    async def _one_at_a_time(self, key: str) -> AsyncIterator[None]:
        """Let equal questions wait for the first of them, whose samples are then theirs."""
        lock, users = self._locks.setdefault(key, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                self._locks.pop(key, None)

    def _spent_budget(self, alias: str) -> str | None:
        model = self.definitions.models[alias]
        if model.daily_budget is None:
            return None
        spent = self.ledger.spent_today(alias)
        if spent < model.daily_budget:
            return None
        return (
            f"the daily budget of model {alias!r} is spent"
            f" ({spent:.4g} of {model.daily_budget:g}); it goes on at 00:00 UTC"
        )

    def version(self, version_id: str) -> Judge:
        """Return a version that the ledger has. Raises `LookupError` for any other."""
        if version_id not in self._versions:
            judge = self.ledger.judge_version(version_id)
            if judge is None:
                raise LookupError(f"no judge version {version_id}")
            self._versions[version_id] = judge
        return self._versions[version_id]

    def _part(self, version_id: str, position: int) -> Prompted:
        part = self.version(version_id).evaluators[position]
        assert isinstance(part, Prompted)  # noqa: S101 (measures never wait)
        return part

    def _account(self, version_id: str, part: Prompted) -> Account:
        return Account(self.version(version_id).name, part.name, part.alias)


def result_of(part: Prompted, mean: Mean | None) -> dict[str, Any]:
    """Return one entry of `evaluator_results` as newer servers show it."""
    return {
        "evaluator_name": part.name,
        "score": mean.score if mean else None,
        "justification": mean.justification if mean else "The response has no words to judge.",
        "evaluator_id": part.id,
        "evaluator_version_id": part.evaluator.version_id,
        "confidence": mean.confidence if mean else None,
    }
