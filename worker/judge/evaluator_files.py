"""Read evaluators from files in the vendor's portable YAML, and report all errors together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any
from uuid import NAMESPACE_URL, uuid5

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.judge.content_version import content_version
from worker.wire.inputs import NonEmpty

MAX_CRITERIA = 500_000  # characters
VARIABLES = (
    *("request", "response", "contexts", "expected_output"),
    *("functions", "tools", "turns", "system_prompt"),
)
_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_LIBRARY = files("worker.judge") / "library"

Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Part(BaseModel):
    """A part of an evaluator's file. Unknown fields are kept: it may come from a newer tool."""

    model_config = ConfigDict(strict=True, extra="allow")


class Objective(_Part):
    intent: NonEmpty


class Example(_Part):
    """Texts with the score that a person gave them."""

    request: str | None = None
    response: str
    contexts: list[NonEmpty] | None = None
    expected_output: str | None = None
    score: Score
    justification: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return the texts as an input of a submission has them."""
        return self.model_dump(
            include={"request", "response", "contexts", "expected_output"}, exclude_none=True
        )


class Evaluator(_Part):
    """A prompt for a model. Demonstrations are shown to it, calibration only measures it."""

    name: NonEmpty
    objective: Objective
    scoring_criteria: Annotated[str, Field(min_length=1, max_length=MAX_CRITERIA)]
    model: str | None = None
    demonstrations: list[Example] | None = None
    calibration: list[Example] | None = None

    @cached_property
    def id(self) -> str:
        return str(uuid5(NAMESPACE_URL, f"evalworker:judge:evaluator:{self.name}"))

    @cached_property
    def version_id(self) -> str:
        """The same for the same content; calibration examples and unknown fields do not count."""
        shown = self.model_dump(include={"name", "objective", "scoring_criteria"})
        examples = [_content(example) for example in self.demonstrations or []]
        return content_version(self.id, {**shown, "demonstrations": examples})

    @cached_property
    def requires(self) -> tuple[str, ...]:
        """The input fields that the criteria name."""
        named = set(placeholders(self.scoring_criteria))
        return tuple(name for name in VARIABLES if name in named)


def _content(example: Example) -> dict[str, Any]:
    return {**example.fields(), "score": example.score, "justification": example.justification}


def placeholders(criteria: str) -> list[str]:
    """Return what stands between double braces, in order."""
    return [found.strip() for found in _PLACEHOLDER.findall(criteria)]


def with_field_names(criteria: str) -> str:
    """Name the fields of the payload in place of the placeholders: texts never enter criteria."""
    return _PLACEHOLDER.sub(lambda found: f'"{found.group(1).strip()}"', criteria)


def library() -> dict[str, Path]:
    """Return the evaluators that come with the package: their files by name."""
    found = (Path(str(entry)) for entry in _LIBRARY.iterdir() if entry.name.endswith(".yaml"))
    return {path.stem: path for path in sorted(found)}


def read_evaluator(path: Path) -> tuple[Evaluator | None, list[str], list[str]]:
    """Return the evaluator, what is wrong with its file, and which unknown fields are kept.

    The evaluator is None if anything is wrong.
    """
    try:
        text = path.read_text("utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        duplicates = [f"{path}:{line}: {name}: given twice" for name, line in _duplicates(node)]
        content = yaml.safe_load(text)
    except OSError as error:
        return None, [f"{path}: {error.strerror}"], []
    except UnicodeDecodeError:
        return None, [f"{path}: it is not UTF-8"], []
    except RecursionError:
        return None, [f"{path}: nested too deeply"], []
    except ValueError as error:  # a number or a date that does not exist
        return None, [f"{path}: {error}"], []
    except yaml.YAMLError as error:
        return None, [f"{path}{_syntax_error(error, text)}"], []
    if not isinstance(content, dict):
        return None, [f"{path}: it holds no fields such as name and scoring_criteria"], []

    def prefix(location: Sequence[int | str]) -> str:
        line, _ = _find(node, location)
        return f"{path}:{line}: {_shown(location)}"

    try:
        evaluator = Evaluator.model_validate(content)
    except ValidationError as error:
        found = [f"{prefix(e['loc'])}: {_reason(e, node)}" for e in error.errors()]
        return None, duplicates + found, []
    offences = duplicates + [f"{prefix(where)}: {reason}" for where, reason in _offences(evaluator)]
    kept = [f"{prefix(where)}: unknown, kept without effect" for where in _unknown(evaluator)]
    return (None if offences else evaluator), offences, kept


def _syntax_error(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f": not YAML: {error}"
    line = text.splitlines()[mark.line : mark.line + 1]
    hint = "; a text that begins with {{ has to be put in quotes" if "{{" in "".join(line) else ""
    return f":{mark.line + 1}: not YAML: {getattr(error, 'problem', error)}{hint}"


def _offences(evaluator: Evaluator) -> Iterator[tuple[tuple[int | str, ...], str]]:
    named = placeholders(evaluator.scoring_criteria)
    criteria = ("scoring_criteria",)
    for name in dict.fromkeys(named):
        if name not in VARIABLES:
            yield criteria, f"{{{{ {name} }}}} is unknown: use one of {', '.join(VARIABLES)}"
    if not {"request", "response"} & set(named):
        yield criteria, "it needs {{ request }} or {{ response }}"
    for kind in ("demonstrations", "calibration"):
        for index, example in enumerate(getattr(evaluator, kind) or []):
            given = example.fields()
            for name in evaluator.requires:
                if name in Example.model_fields and name not in given:
                    yield (kind, index), f"it lacks {name}, which the criteria use"


def _unknown(evaluator: Evaluator) -> Iterator[tuple[int | str, ...]]:
    yield from ((name,) for name in evaluator.model_extra or {})
    yield from (("objective", name) for name in evaluator.objective.model_extra or {})
    for kind in ("demonstrations", "calibration"):
        for index, example in enumerate(getattr(evaluator, kind) or []):
            yield from ((kind, index, name) for name in example.model_extra or {})


def _reason(error: Mapping[str, Any], node: Any) -> str:
    if error["type"] == "missing":
        return "required"
    if error["type"] == "string_type" and error["input"] is not None:
        _, given = _find(node, error["loc"])
        is_scalar = isinstance(given, yaml.ScalarNode)
        return f"must be a text: put {given.value} in quotes" if is_scalar else "must be a text"
    return str(error["msg"])


def _shown(location: Sequence[int | str]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "".join(steps).removeprefix(".")


def _find(node: Any, location: Sequence[int | str]) -> tuple[int, Any]:
    """Return the line and node of a field, or of the innermost one around it that exists."""
    line = node.start_mark.line
    for step in location:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == str(step)]
            if not pairs:
                break
            key, node = pairs[-1]
            line = key.start_mark.line
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line
        else:
            break
    return int(line) + 1, node


def _duplicates(node: Any) -> Iterator[tuple[str, int]]:
    """Yield fields that a mapping has twice: YAML would quietly drop the first."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if str(key.value) in seen:
                yield str(key.value), key.start_mark.line + 1
            seen.add(str(key.value))
            yield from _duplicates(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _duplicates(value)
