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
from typing import Any, TypeVar

import structlog

from worker.domain.phrases import one_line
from worker.judge.endpoint import Endpoint, QuestionRefused
from worker.judge.judges import Judge, Prompted, Result
from worker.judge.judges_file import Definitions
from worker.judge.ledger import Account, Evaluation, Ledger, Sample
from worker.judge.model_score import Mean, ModelScore, Unreadable, mean_of, read_score
from worker.judge.prompt import Message, has_words, messages, prompt_key, with_last_turns

STORE_SECONDS = 1.0  # between two tries to write the state file
LOCKED_SECONDS = 0.2  # for which one try may keep the service from everything else
MORE_ROOM = 4  # times the usual maximum, for the second try
EXPIRY_SECONDS = 600.0  # between two searches for what is old enough to be deleted
PIECE_SECONDS = 0.05  # between two deletions, so that requests are answered in between

Written = TypeVar("Written")

log = structlog.get_logger("evalworker")


class Failed(Exception):
    """An evaluation has no score; the message says why."""


class Engine:
    """The tasks that evaluate, with their queues. Not thread-safe: use it on one event loop."""

    def __init__(
        self, definitions: Definitions, ledger: Ledger, *, patience: float | None = None
    ) -> None:
        self.ledger = ledger
        self.definitions = definitions
        self.endpoints = {
            alias: Endpoint(
                alias,
                model,
                budget=partial(self._spent_budget, alias),
                on_wait=self._note_wait,
                patience=patience,
            )
            for alias, model in definitions.models.items()
        }
        self._queues: dict[str, asyncio.Queue[Evaluation]] = {}
        self._locks: dict[str, tuple[asyncio.Lock, list[None]]] = {}
        self._versions: dict[str, Judge] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work in the background, beginning with what an earlier process left."""
        for alias in self.ledger.waits():
            self._note_wait(alias, None)
        self._queues = {alias: asyncio.Queue() for alias in self.endpoints}
        self.add(self.ledger.waiting())
        self.ledger.set_patience(LOCKED_SECONDS)
        tasks = [
            asyncio.create_task(self._work(self._queues[alias]))
            for alias, endpoint in self.endpoints.items()
            for _ in range(endpoint.model.concurrency)
        ]
        tasks.append(asyncio.create_task(self._delete_expired()))
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

    def add(self, evaluations: Sequence[Evaluation]) -> None:
        """Queue evaluations that the ledger has; those without a model fail."""
        for evaluation in evaluations:
            part = self._part(evaluation)
            if self.definitions.model_of(part) is None:
                reason = f"the model {part.model!r} is no longer in judges.toml"
                self._give_up(evaluation, reason)
            else:
                self._queues[part.alias].put_nowait(evaluation)

    def spent_budget(self, judge: Judge) -> str | None:
        """Return why this judge may ask nothing more today, or None."""
        reasons = (endpoint.spent_budget() for endpoint in self._endpoints_of(judge))
        return "; ".join(reason for reason in reasons if reason) or None

    def why_waiting(self, judge: Judge) -> str:
        """Return why evaluations of this judge do not go on, or an empty text."""
        reasons = (endpoint.waits_for for endpoint in self._endpoints_of(judge))
        return "; ".join(reason for reason in reasons if reason)

    def _endpoints_of(self, judge: Judge) -> list[Endpoint]:
        aliases = {part.alias for part in judge.evaluators if isinstance(part, Prompted)}
        return [self.endpoints[alias] for alias in sorted(aliases) if alias in self.endpoints]

    async def evaluate(
        self, part: Prompted, fields: Mapping[str, Any], samples: int, account: Account
    ) -> Mean | None:
        """Return the mean of samples, None where there is nothing to judge; or raise `Failed`."""
        fields = with_last_turns(fields)
        if "response" in part.evaluator.requires and not has_words(fields.get("response")):
            return None
        asked = messages(part.evaluator, fields)
        model = self.definitions.models[part.alias]  # at its URL of now
        asked_of = (model.url, model.model, model.temperature)
        key = prompt_key(part.evaluator.version_id, asked_of, asked)
        async with self._one_at_a_time(key):
            scores = [
                await self._sample(part.alias, asked, (key, n), account) for n in range(samples)
            ]
        return mean_of(scores)

    async def _work(self, queue: asyncio.Queue[Evaluation]) -> None:
        while True:
            evaluation = await queue.get()
            try:
                await self._end(evaluation)
            except sqlite3.OperationalError as error:  # of a read: what was paid for is stored
                log.warning("judge.state_cannot_be_read", reason=str(error))
                await asyncio.sleep(STORE_SECONDS)
                queue.put_nowait(evaluation)
            except Exception as error:  # the task serves all other evaluations, too
                log.exception("judge.evaluation_failed", number=evaluation.number)
                reason = f"unexpected {type(error).__name__}; the log has more"
                await self._store(partial(self._give_up, evaluation, reason))

    async def _delete_expired(self) -> None:
        delete = partial(self.ledger.delete_expired, self.definitions.keep_days)
        while True:
            has_more = await self._store(delete)
            await asyncio.sleep(PIECE_SECONDS if has_more else EXPIRY_SECONDS)

    def _give_up(self, evaluation: Evaluation, reason: str) -> None:
        """End an evaluation that cannot be done, as trying again would be paid for each time."""
        part = self._part(evaluation)
        self.ledger.end(evaluation, self._account(evaluation, part), None, f"{part.name}: {reason}")

    async def _end(self, evaluation: Evaluation) -> None:
        fields = self.ledger.input_of(evaluation)
        if fields is None:
            return
        part = self._part(evaluation)
        account = self._account(evaluation, part)
        samples = self.version(evaluation.version_id).samples
        result: Result | None = None
        reason: str | None = None
        try:
            result = result_of(part, await self.evaluate(part, fields, samples, account))
        except Failed as error:
            reason = f"{part.name}: {error}"
        await self._store(lambda: self.ledger.end(evaluation, account, result, reason))

    async def _sample(
        self, alias: str, asked: list[Message], sample_key: tuple[str, int], account: Account
    ) -> ModelScore:
        """Return a known sample, or ask for one: a second time with more room if need be."""
        known = self.ledger.sample(*sample_key)
        if known is not None and known.score is not None:
            await self._store(partial(self.ledger.count_hit, *sample_key, account))
            return known.score
        room = self.endpoints[alias].model.max_output_tokens
        tries = [room, room * MORE_ROOM] if known is None else [room * MORE_ROOM]
        reason = ""
        for max_tokens in tries:
            read = await self._ask(alias, asked, max_tokens, sample_key, account)
            if isinstance(read, ModelScore):
                return read
            reason = one_line(read.reason, 500) if read.is_refusal else f"{read.reason}, twice"
            if read.is_refusal:
                break
        await self._store(partial(self.ledger.forget_sample, *sample_key))
        raise Failed(reason)

    async def _ask(
        self,
        alias: str,
        asked: list[Message],
        max_tokens: int,
        sample_key: tuple[str, int],
        account: Account,
    ) -> ModelScore | Unreadable:
        endpoint = self.endpoints[alias]

        async def count_lost(tokens: int) -> None:
            cost = endpoint.model.cost(tokens, 0)
            await self._store(partial(self.ledger.count_lost_call, account, tokens, cost))

        try:
            reply = await endpoint.ask(asked, max_tokens, count_lost)
        except QuestionRefused as error:
            raise Failed(one_line(str(error), 500)) from None
        read = read_score(reply.text, reply.finish_reason, reply.refusal)
        sample = Sample(read, None) if isinstance(read, ModelScore) else Sample(None, read.reason)
        tokens = (reply.input_tokens, reply.output_tokens)
        cost = endpoint.model.cost(*tokens)
        await self._store(
            lambda: self.ledger.add_sample(*sample_key, sample, account, tokens=tokens, cost=cost)
        )
        return read

    def _note_wait(self, alias: str, reason: str | None) -> None:
        """Show why a model waits; the note may be missing, but the reply under way may not."""
        try:
            self.ledger.set_wait(alias, reason)
        except sqlite3.OperationalError as error:
            log.warning("judge.state_cannot_be_written", reason=str(error))

    async def _store(self, write: Callable[[], Written]) -> Written:
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

    def _part(self, evaluation: Evaluation) -> Prompted:
        part = self.version(evaluation.version_id).evaluators[evaluation.position]
        assert isinstance(part, Prompted)  # noqa: S101 (measures never wait)
        return part

    def _account(self, evaluation: Evaluation, part: Prompted) -> Account:
        return Account(self.version(evaluation.version_id).name, part.name, part.alias)


def result_of(part: Prompted, mean: Mean | None) -> Result:
    """Return one entry of `evaluator_results` as newer servers show it."""
    return {
        "evaluator_name": part.name,
        "score": mean.score if mean else None,
        "justification": mean.justification if mean else "The response has no words to judge.",
        "evaluator_id": part.id,
        "evaluator_version_id": part.evaluator.version_id,
        "confidence": mean.confidence if mean else None,
    }
