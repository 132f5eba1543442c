"""Validate one input of a submission."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXT = 3_500_000  # characters, of `expected_output` and `system_prompt`

NonEmpty = Annotated[str, Field(min_length=1)]
LongText = Annotated[str, Field(max_length=MAX_TEXT)]
ShortText = Annotated[str, Field(max_length=255)]


class Turn(BaseModel):
    """One message of a conversation; unknown fields are kept, as servers add fields."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: str
    content: str | None = None
    contexts: list[str] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class Input(BaseModel):
    """One input. The API requires no field; a judge may require some of them."""

    model_config = ConfigDict(strict=True, extra="forbid")

    request: str | None = None
    response: str | None = None
    contexts: list[NonEmpty] | None = None
    functions: list[dict[str, Any]] | None = None
    expected_output: LongText | None = None
    evaluator_version_id: str | None = None
    turns: list[Turn] | None = None
    tools: list[dict[str, Any]] | None = None
    user_id: ShortText | None = None
    session_id: ShortText | None = None
    system_prompt: LongText | None = None
    file_ids: list[NonEmpty] | None = None
    project_id: str | None = None


COLUMN_FIELDS = ("request", "response", "contexts", "functions", "expected_output")
"""Input fields with a column of their own in `eval_items`; all others are stored in `extra`."""

CONTENT_FIELDS = ("request", "response", "turns")
"""Without any of these there is nothing to evaluate, although the API would take the input."""

EXTRA_FIELDS = tuple(name for name in Input.model_fields if name not in COLUMN_FIELDS)
