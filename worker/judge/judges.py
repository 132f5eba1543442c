"""Define judges: evaluators and models, in versions that follow from their content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from pydantic import BaseModel, ConfigDict

from worker.judge.content_version import content_version
from worker.judge.evaluator_files import Evaluator
from worker.judge.measures import evaluator_id, evaluator_result
from worker.wire.inputs import Input

AD_HOC = "ad hoc"
Result = dict[str, Any]  # an entry of `evaluator_results`


class Measured(BaseModel):
    """An evaluator that is a measure of `worker.judge.measures`."""

    model_config = ConfigDict(frozen=True)

    measure: str

    @property
    def id(self) -> str:
        return evaluator_id(self.measure)

    @property
    def name(self) -> str:
        return self.measure


class Prompted(BaseModel):
    """An evaluator that asks a model: `alias` is its name in `judges.toml`, `model` its own.

    Stored versions may be from a time when the URL and the temperature were not part of them.
    """

    evaluator: Evaluator
    alias: str
    model: str
    url: str | None = None
    temperature: float | None = None

    @property
    def id(self) -> str:
        return self.evaluator.id

    @property
    def name(self) -> str:
        return self.evaluator.name

    @property
    def content(self) -> list[Any]:
        """Return what scores depend on."""
        known = [] if self.url is None else [self.url, self.temperature]
        return [self.evaluator.version_id, self.model, *known]


class Judge(BaseModel):
    """One version of a judge, complete enough to be stored and run later."""

    name: str
    evaluators: list[Measured | Prompted]
    requires: list[str] = []
    samples: int = 1
    intent: str | None = None

    @property
    def id(self) -> str:
        return str(uuid5(NAMESPACE_URL, f"evalworker:judge:{self.name}"))

    @property
    def version_id(self) -> str:
        parts = [
            part.content if isinstance(part, Prompted) else part.id for part in self.evaluators
        ]
        return content_version(self.id, [parts, self.samples, sorted(self.requires)])

    def list_row(self) -> dict[str, str]:
        """Return what the API's list of judges shows."""
        names = ", ".join(part.name for part in self.evaluators)
        needs = " and ".join(self.needed_fields) or "nothing"
        intent = f"{self.intent or names}; requires {needs}"
        return {"id": self.id, "name": self.name, "intent": intent}

    @cached_property
    def needed_fields(self) -> list[str]:
        """Return the input fields without which this judge cannot judge, in the API's order."""
        needed = set(self.requires)
        for part in self.evaluators:
            needed |= set(part.evaluator.requires) if isinstance(part, Prompted) else set()
        return [name for name in Input.model_fields if name in needed]

    def missing_fields(self, fields: Mapping[str, Any]) -> list[str]:
        """Return the required fields that an input lacks; an empty response is still one."""
        return [name for name in self.needed_fields if fields.get(name) in (None, [])]

    def measure(self, fields: Mapping[str, Any]) -> list[Result | None]:
        """Return the results of all evaluators; None of those that have to ask a model."""
        return [
            evaluator_result(part.measure, fields) if isinstance(part, Measured) else None
            for part in self.evaluators
        ]


def ad_hoc_judge(evaluator_ids: Sequence[str], judges: Sequence[Judge]) -> Judge | None:
    """Make a judge of these evaluators of others; return None if one of the ids is unknown."""
    known = {part.id: part for judge in judges for part in judge.evaluators}
    if not all(key in known for key in evaluator_ids):
        return None
    return Judge(name=AD_HOC, evaluators=[known[key] for key in dict.fromkeys(evaluator_ids)])
