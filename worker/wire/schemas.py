"""Define the API's response bodies; the OpenAPI document is derived from these types."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NotRequired, get_args

from pydantic import Field, RootModel, WithJsonSchema
from typing_extensions import TypedDict

ItemStatus = Literal["pending", "processing", "completed", "failed"]
ExecutionStatus = Literal["pending", "processing", "completed", "failed", "partial"]
STATUSES: tuple[ExecutionStatus, ...] = get_args(ExecutionStatus)

Uuid = Annotated[str, WithJsonSchema({"type": "string", "format": "uuid"})]
Timestamp = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Count = Annotated[int, Field(ge=0)]

_ALWAYS_SHOWN = ("request", "response", "contexts", "expected_output")


class Accepted(TypedDict):
    """The batch was accepted."""

    batch_execution_id: Uuid
    status_url: Annotated[str, Field(description="Relative to the API's own URL.")]


class Judge(TypedDict):
    id: str
    name: str
    version_id: Annotated[str, Field(description="The version that ran; empty while unknown.")]


class EvaluatorResult(TypedDict):
    """One evaluator's result for an item; servers may add fields."""

    evaluator_name: str
    score: float | None
    justification: str | None
    evaluator_id: NotRequired[str | None]
    evaluator_version_id: NotRequired[str | None]
    confidence: NotRequired[float | None]


class Item(TypedDict):
    """One input and its outcome."""

    index: Count
    status: ItemStatus
    input: dict[str, Any]
    evaluator_results: list[EvaluatorResult] | None
    error_message: Annotated[str, Field(description="Empty when there is no error.")]
    execution_log_id: str | None
    started_at: Timestamp | None
    completed_at: Timestamp | None


class Head(TypedDict):
    """A batch execution without its items."""

    batch_execution_id: Uuid
    status: ExecutionStatus
    total_count: Count
    completed_count: Count
    failed_count: Count
    created_at: Timestamp | None
    started_at: Timestamp | None
    completed_at: Timestamp | None
    judge: Judge
    tags: NotRequired[list[str]]


class Execution(Head):
    """A batch execution with its items."""

    items: list[Item]


class Page(TypedDict):
    """A page of the list, newest first."""

    next: Annotated[str | None, Field(description="The absolute URL of the next page.")]
    previous: str | None
    results: list[Head]


class ProblemBody(TypedDict):
    """An error."""

    type: str
    status: int
    title: str
    detail: str
    instance: str | None
    code: str


class FieldErrors(RootModel[dict[str, list[str | dict[str, Any]]]]):
    """The errors by field; those of `inputs` are an object for each input."""


def input_body(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return an input as items show it: four fields always, the others if they were sent."""
    return {**dict.fromkeys(_ALWAYS_SHOWN), **fields}


def format_time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
