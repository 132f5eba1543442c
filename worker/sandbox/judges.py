"""The sandbox's judges, by name or by id."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from worker.sandbox.evaluators import EVALUATORS, evaluator_id, result_of


@dataclass(frozen=True, slots=True)
class Judge:
    """A named set of evaluators; `requires` are input fields that must not be empty."""

    name: str
    evaluators: tuple[str, ...]
    requires: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return str(uuid5(NAMESPACE_URL, f"evalworker:sandbox:judge:{self.name}"))

    @property
    def version_id(self) -> str:
        return str(uuid5(NAMESPACE_URL, f"{self.id}:1"))

    def missing(self, given: Mapping[str, Any]) -> list[str]:
        """Which required fields an input lacks."""
        return [name for name in self.requires if not given.get(name)]

    def evaluate(self, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [result_of(name, given) for name in self.evaluators]


def load_judges() -> dict[str, Judge]:
    """Every judge of `judges.toml`, under its name and under its id."""
    text = files("worker.sandbox").joinpath("judges.toml").read_text("utf-8")
    judges = [
        Judge(name, tuple(given["evaluators"]), tuple(given["requires"]))
        for name, given in tomllib.loads(text).items()
    ]
    return {key: judge for judge in judges for key in (judge.name, judge.id)}


def ad_hoc(evaluator_ids: Sequence[str]) -> Judge | None:
    """A judge of these evaluators alone; None if one of the ids is not known."""
    known = {evaluator_id(name): name for name in EVALUATORS}
    if not all(given in known for given in evaluator_ids):
        return None
    return Judge("ad hoc", tuple(known[given] for given in evaluator_ids))
