"""Look up the sandbox's judges by name or by id."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from worker.judge.measures import EVALUATORS, evaluator_id, evaluator_result


@dataclass(frozen=True, slots=True)
class Judge:
    """A named set of evaluators. The input fields in `requires` must not be empty."""

    name: str
    evaluators: tuple[str, ...]
    requires: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return str(uuid5(NAMESPACE_URL, f"evalworker:sandbox:judge:{self.name}"))

    @property
    def version_id(self) -> str:
        return str(uuid5(NAMESPACE_URL, f"{self.id}:1"))

    def list_row(self) -> dict[str, str]:
        """Return what the API's list of judges shows."""
        needs = " and ".join(self.requires) or "nothing"
        intent = f"{', '.join(self.evaluators)}; requires {needs}"
        return {"id": self.id, "name": self.name, "intent": intent}

    def missing_fields(self, fields: Mapping[str, Any]) -> list[str]:
        """Return the required fields that an input lacks."""
        return [name for name in self.requires if not fields.get(name)]

    def evaluate(self, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [evaluator_result(name, fields) for name in self.evaluators]


def load_judges() -> dict[str, Judge]:
    """Return the judges of `judges.toml`, each under its name and under its id."""
    text = files("worker.sandbox").joinpath("judges.toml").read_text("utf-8")
    judges = [
        Judge(name, tuple(entry["evaluators"]), tuple(entry["requires"]))
        for name, entry in tomllib.loads(text).items()
    ]
    return {key: judge for judge in judges for key in (judge.name, judge.id)}


def ad_hoc_judge(evaluator_ids: Sequence[str]) -> Judge | None:
    """Make a judge of these evaluators; return None if one of the ids is unknown."""
    names = {evaluator_id(name): name for name in EVALUATORS}
    if not all(key in names for key in evaluator_ids):
        return None
    return Judge("ad hoc", tuple(names[key] for key in evaluator_ids))
