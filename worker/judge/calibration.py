"""Measure how far evaluators are from the scores that people gave to calibration examples."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.judge.engine import Engine, Failed
from worker.judge.evaluator_files import Example
from worker.judge.judges import Prompted
from worker.judge.ledger import Account

JUDGE = "calibration"  # whose usage it is in the ledger


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one example: a score, or why there is none."""

    number: int  # of the example in its file, from 1
    example: Example
    score: float | None
    reasons: str | None

    @property
    def deviation(self) -> float:
        return 0.0 if self.score is None else self.score - self.example.score


@dataclass(slots=True)
class Report:
    """How one evaluator did with one model."""

    evaluator: str
    model: str
    outcomes: Sequence[Outcome]
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def scored(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.score is not None]

    @property
    def deviation(self) -> float | None:
        """The mean absolute difference from the scores of people."""
        scored = self.scored
        return sum(abs(o.deviation) for o in scored) / len(scored) if scored else None

    @property
    def bias(self) -> float | None:
        """The mean difference: above zero where the model is kinder than people."""
        scored = self.scored
        return sum(o.deviation for o in scored) / len(scored) if scored else None

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.score is None]

    def misses(self, limit: int) -> list[Outcome]:
        """Return the examples whose scores are farthest off."""
        off = [outcome for outcome in self.scored if outcome.deviation]
        return sorted(off, key=lambda outcome: -abs(outcome.deviation))[:limit]

    def passes(self, max_deviation: float) -> bool:
        deviation = self.deviation
        if not self.outcomes:
            return True
        return not self.failed and deviation is not None and deviation <= max_deviation


async def calibrate(engine: Engine) -> list[Report]:
    """Run the examples of every evaluator with each model that it is used with."""
    parts: dict[tuple[str, str, int], Prompted] = {}
    for judge in engine.definitions.judges:
        for part in judge.evaluators:
            if isinstance(part, Prompted):
                parts[part.evaluator.version_id, part.alias, judge.samples] = part
    try:
        return [await _report(engine, part, key[2]) for key, part in parts.items()]
    finally:
        await engine.close()


async def _report(engine: Engine, part: Prompted, samples: int) -> Report:
    account = Account(JUDGE, part.name, part.alias)
    turns = asyncio.Semaphore(engine.definitions.models[part.alias].concurrency)

    async def run(number: int, example: Example) -> Outcome:
        async with turns:
            try:
                mean = await engine.evaluate(part, example.fields(), samples, account)
            except Failed as error:
                return Outcome(number, example, None, str(error))
        if mean is None:
            return Outcome(number, example, None, "the response has no words to judge")
        return Outcome(number, example, mean.score, mean.justification)

    before = _usage(engine, account)
    examples = enumerate(part.evaluator.calibration or [], 1)
    outcomes = await asyncio.gather(*(run(number, example) for number, example in examples))
    after = _usage(engine, account)
    usage = {name: amount - before.get(name, 0) for name, amount in after.items()}
    return Report(part.name, part.alias, outcomes, usage)


def _usage(engine: Engine, account: Account) -> dict[str, Any]:
    names = ("judge", "evaluator", "model")
    for row in engine.ledger.usage(by=names):
        if tuple(row.pop(name) for name in names) == (JUDGE, account.evaluator, account.model):
            return row
    return {}
