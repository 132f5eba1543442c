"""Read judges and models from `judges.toml`; all errors are reported together, by file and key.

Addresses of models and names of keys come from this file alone, never from a submission.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from worker.errors import InvalidDefinitions
from worker.judge.evaluator_files import Evaluator, library, read_evaluator
from worker.judge.judges import Judge, Measured, Prompted
from worker.judge.measures import EVALUATORS
from worker.wire.inputs import Input, NonEmpty

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Table(BaseModel):
    """A field that is not known is an error: a misspelt budget would be none."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Model(_Table):
    """A model behind an OpenAI-compatible URL. Prices are for a million tokens."""

    url: str
    model: NonEmpty
    key_env: NonEmpty | None = None
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 4
    max_output_tokens: Annotated[int, Field(ge=16)] = 1024
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 300.0
    price_input: Price = 0.0
    price_output: Price = 0.0
    daily_budget: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            httpx.URL(url)
        except (ValueError, httpx.InvalidURL):
            usable = False
        if not usable:
            raise ValueError("must be a URL such as http://127.0.0.1:11434/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must have no password, query or fragment: name a key by key_env")
        return url.rstrip("/").removesuffix("/chat/completions")

    @model_validator(mode="after")
    def _can_be_limited(self) -> Model:
        if self.daily_budget is not None and not (self.price_input or self.price_output):
            raise ValueError("daily_budget needs price_input and price_output")
        return self

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.price_input + output_tokens * self.price_output) / 1_000_000

    def key(self) -> str | None:
        return os.environ.get(self.key_env, "").strip() or None if self.key_env else None


class Server(_Table):
    """Who may use the service: without `key_env`, everybody on this machine."""

    key_env: NonEmpty | None = None
    keep_days: Annotated[int, Field(ge=1, le=3650)] = 30


class JudgeEntry(_Table):
    evaluators: Annotated[list[NonEmpty], Field(min_length=1)]
    model: NonEmpty | None = None
    samples: Annotated[int, Field(ge=1, le=25)] = 1
    requires: list[NonEmpty] = []
    intent: NonEmpty | None = None


TABLES: dict[str, type[_Table]] = {"models": Model, "judges": JudgeEntry, "server": Server}
Table = TypeVar("Table", bound=_Table)


@dataclass
class Definitions:
    """What the files say. `notes` are remarks on what is valid and may surprise."""

    judges: list[Judge] = field(default_factory=list)
    models: dict[str, Model] = field(default_factory=dict)
    server_key: str | None = None
    keep_days: int = 30  # finished batches, and samples after their last use
    notes: list[str] = field(default_factory=list)

    def model_of(self, part: Prompted) -> Model | None:
        """Return the model of a version that may be old; None if the file no longer has it."""
        model = self.models.get(part.alias)
        return model if model is not None and model.model == part.model else None

    def can_judge(self, version: Judge) -> bool:
        """Return whether the models of a version that may be old are still as they were."""
        return all(
            (model := self.model_of(part)) is not None
            and (part.url is None or part == _prompted(part.evaluator, part.alias, model))
            for part in version.evaluators
            if isinstance(part, Prompted)
        )


def load_definitions(path: Path) -> Definitions:
    """Read the file and the evaluators that it names. Raises `InvalidDefinitions`."""
    try:
        content = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        reason = "there is no such file; `evalworker judge init` writes one to start from"
        raise InvalidDefinitions([f"{path}: {reason}"]) from None
    except OSError as error:
        raise InvalidDefinitions([f"{path}: {error.strerror}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidDefinitions([f"{path}: not TOML: {error}"]) from None
    return _Reader(path, content).read()


class _Reader:
    """Turns a file into judges, and collects what is wrong with it and with what it names."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content
        self.offences: list[str] = []
        self.found = Definitions()
        self._read_files: dict[Path, Evaluator | None] = {}

    def read(self) -> Definitions:
        for name in self.content.keys() - TABLES.keys():
            self._offend(name, f"unknown{_meant(name, TABLES)}")
        self.found.models = self._tables("models", Model)
        for alias, model in self.found.models.items():
            self._check_key(f"models.{alias}", model.key_env)
        server = self._table("server", self.content.get("server", {}), Server) or Server()
        self._check_key("server", server.key_env)
        self.found.keep_days = server.keep_days
        if server.key_env:
            self.found.server_key = os.environ.get(server.key_env, "").strip() or None
        if not self.content.get("judges"):
            self._offend("judges", "required: add a table such as [judges.answers]")
        for name, entry in self._tables("judges", JudgeEntry).items():
            if not name.strip() or "/" in name:
                self._offend(f"judges.{name!r}", "a name must not be empty or contain a slash")
            judge = self._judge(name, entry)
            if judge is not None:
                self.found.judges.append(judge)
        self._check_names()
        if self.offences:
            raise InvalidDefinitions(list(dict.fromkeys(self.offences)))
        return self.found

    def _tables(self, name: str, kind: type[Table]) -> dict[str, Table]:
        """Return the valid ones of the tables under a name."""
        given = self.content.get(name, {})
        tables = _tables_of(given)
        if tables != given:
            self._offend(name, f"holds fields: write [{name}.NAME] above them")
        read = {key: self._table(f"{name}.{key}", fields, kind) for key, fields in tables.items()}
        return {key: table for key, table in read.items() if table is not None}

    def _table(self, key: str, fields: Any, kind: type[Table]) -> Table | None:
        try:
            return kind.model_validate(fields)
        except ValidationError as error:
            for found in error.errors():
                where = ".".join([key, *map(str, found["loc"])])
                self._offend(where, _reason(dict(found), kind))
        return None

    def _check_key(self, key: str, variable: str | None) -> None:
        if variable is None:
            return
        value = os.environ.get(variable, "").strip()
        if not value:
            self._offend(f"{key}.key_env", f"the variable {variable!r} is not set")
        elif not (value.isascii() and value.isprintable()):
            reason = f"the key in {variable!r} has characters that a header cannot have"
            self._offend(f"{key}.key_env", reason)

    def _offend(self, key: str, reason: str) -> None:
        self.offences.append(f"{self.path}: {key}: {reason}")

    def _judge(self, name: str, entry: JudgeEntry) -> Judge | None:
        key = f"judges.{name}"
        names = self._model_names()
        if entry.model is not None and entry.model not in names:
            known = ", ".join(names) or "none"
            self._offend(f"{key}.model", f"no model {entry.model!r}; there are: {known}")
            return None
        for required in entry.requires:
            if required not in Input.model_fields:
                self._offend(f"{key}.requires", f"{required!r} is no field of an input")
        parts = [self._part(f"{key}.evaluators", text, entry) for text in entry.evaluators]
        present = [part for part in parts if part is not None]
        names = [part.name for part in present]
        for double in sorted({text for text in names if names.count(text) > 1}):
            self._offend(f"{key}.evaluators", f"{double!r} is there twice")
        return Judge(
            name=name,
            evaluators=present,
            requires=entry.requires,
            samples=entry.samples,
            intent=entry.intent,
        )

    def _part(self, key: str, text: str, entry: JudgeEntry) -> Measured | Prompted | None:
        if text in EVALUATORS:
            return Measured(measure=text)
        own = library()
        if text.endswith((".yaml", ".yml")):
            path = self.path.parent / text
        elif text in own:
            path = own[text]
        else:
            hint = _meant(text, [*EVALUATORS, *own])
            self._offend(key, f"{text!r} is no file (.yaml), no measure and none of our own{hint}")
            return None
        evaluator = self._evaluator(path)
        if evaluator is None:
            return None
        alias = self._alias(key, evaluator, entry)
        if alias not in self.found.models:
            return None
        return _prompted(evaluator, alias, self.found.models[alias])

    def _evaluator(self, path: Path) -> Evaluator | None:
        if path not in self._read_files:
            evaluator, offences, kept = read_evaluator(path)
            self._read_files[path] = evaluator
            self.offences += offences
            self.found.notes += kept
        return self._read_files[path]

    def _alias(self, key: str, evaluator: Evaluator, entry: JudgeEntry) -> str | None:
        """Choose the judge's model, else the evaluator's own, else the only one there is."""
        if entry.model is not None:
            return entry.model
        models, names = self.found.models, self._model_names()
        wanted = [
            alias for alias, model in models.items() if evaluator.model in (alias, model.model)
        ]
        if wanted:
            return wanted[0]
        if len(names) == 1:
            (alias,) = names
            if evaluator.model is not None:
                self.found.notes.append(
                    f"{self.path}: {key}: {evaluator.name!r} asks for model"
                    f" {evaluator.model!r}, which is not in this file; {alias!r} is used"
                )
            return alias
        reason = f"{evaluator.name!r} needs a model: " + (
            "set `model` of the judge" if names else "add a table such as [models.local]"
        )
        self._offend(key, reason)
        return None

    def _model_names(self) -> list[str]:
        """Return the names of all models, also of those that are invalid."""
        return list(_tables_of(self.content.get("models", {})))

    def _check_names(self) -> None:
        """Refuse two evaluators with one name and different content: one id would mean both."""
        seen: dict[str, Evaluator] = {}
        for path, evaluator in self._read_files.items():
            if evaluator is None:
                continue
            other = seen.setdefault(evaluator.name, evaluator)
            if other.version_id != evaluator.version_id:
                self.offences.append(f"{path}: name: {evaluator.name!r} is another file's, too")


def _tables_of(given: Any) -> dict[str, Any]:
    tables = given.items() if isinstance(given, dict) else ()
    return {name: fields for name, fields in tables if isinstance(fields, dict)}


def _prompted(evaluator: Evaluator, alias: str, model: Model) -> Prompted:
    return Prompted(
        evaluator=evaluator,
        alias=alias,
        model=model.model,
        url=model.url,
        temperature=model.temperature,
    )


def _reason(error: Mapping[str, Any], kind: type[_Table]) -> str:
    if error["type"] == "missing":
        return "required"
    if error["type"] == "extra_forbidden":
        return f"unknown{_meant(str(error['loc'][-1]), kind.model_fields)}"
    return str(error["msg"]).removeprefix("Value error, ")


def _meant(text: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(text, list(known), 1)
    return f"; was {near[0]!r} meant?" if near else ""
