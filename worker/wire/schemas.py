"""What the API answers, as the types that its OpenAPI document is made of."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

ItemStatus = Literal["pending", "processing", "completed", "failed"]
ExecutionStatus = Literal["pending", "processing", "completed", "failed", "partial"]
STATUSES = ("pending", "processing", "completed", "failed", "partial")

Uuid = Annotated[str, WithJsonSchema({"type": "string", "format": "uuid"})]
Moment = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Count = Annotated[int, Field(ge=0)]

_SHOWN = ("request", "response", "contexts", "expected_output")


class Accepted(TypedDict):
    """The batch was taken."""

    batch_execution_id: Uuid
    status_url: Annotated[str, Field(description="Relative to the API's own URL.")]


class Judge(TypedDict):
    id: str
    name: str
    version_id: Annotated[str, Field(description="The one that ran; empty while not known.")]


class EvaluatorResult(TypedDict):
    """One evaluator's verdict; servers add fields."""

    evaluator_name: str
    score: float | None
    justification: str | None
    evaluator_id: NotRequired[str | None]
    evaluator_version_id: NotRequired[str | None]
    confidence: NotRequired[float | None]


class Item(TypedDict):
    """One input and what became of it."""

    index: Count
    status: ItemStatus
    input: dict[str, Any]
    evaluator_results: list[EvaluatorResult] | None
    error_message: Annotated[str, Field(description="Empty when there is no error.")]
    execution_log_id: str | None
    started_at: Moment | None
    completed_at: Moment | None


class Head(TypedDict):
    """A batch execution in the list."""

    batch_execution_id: Uuid
    status: ExecutionStatus
    total_count: Count
    completed_count: Count
    failed_count: Count
    created_at: Moment | None
    started_at: Moment | None
    completed_at: Moment | None
    judge: Judge
    tags: NotRequired[list[str]]


class Execution(Head):
    """A whole batch execution."""

    items: list[Item]


class Page(TypedDict):
    """A page of the list, newest first."""

    next: Annotated[str | None, Field(description="The whole URL of the page after this one.")]
    previous: str | None
    results: list[Head]


class ProblemBody(TypedDict):
    """What went wrong."""

    type: str
    status: int
    title: str
    detail: str
    instance: str | None
    code: str


def input_body(given: Mapping[str, Any]) -> dict[str, Any]:
    """An input as items show it: four fields always, of the others those that were sent."""
    return {**dict.fromkeys(_SHOWN), **given}


def format_time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
