"""Validate the body of a submission."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from worker.wire.inputs import Input, NonEmpty
from worker.wire.problems import Problem, field_errors, field_problem

MAX_INPUTS = 100  # per submission


def _uuid(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise ValueError("Must be a valid UUID.") from None


Uuid = Annotated[str, AfterValidator(_uuid), Field(json_schema_extra={"format": "uuid"})]


class TolerantInput(Input):
    """An input as servers accept it: unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Submission(BaseModel):
    """The body for a judge's own path."""

    model_config = ConfigDict(strict=True, extra="ignore")

    inputs: list[TolerantInput]
    tags: list[NonEmpty] | None = None
    judge_version_id: Uuid | None = None
    project_id: Uuid | None = None


class CommonSubmission(Submission):
    """The body for the path that all judges share."""

    judge_id: str | None = None
    evaluator_ids: list[str] | None = None


Body = TypeVar("Body", bound=Submission)


def read_submission(body: Any, model: type[Body], *, max_inputs: int = MAX_INPUTS) -> Body:
    """Validate a parsed body; raise `Problem`, 400, that names every invalid field."""
    try:
        submission = model.model_validate(body)
    except ValidationError as error:
        raise field_problem(field_errors(error)) from None
    except RecursionError:
        raise Problem(400, "parse_error", "JSON parse error: nested too deeply.") from None
    if not 1 <= len(submission.inputs) <= max_inputs:
        raise field_problem({"inputs": [f"Between 1 and {max_inputs} inputs are allowed."]})
    return submission
