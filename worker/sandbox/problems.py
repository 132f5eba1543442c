"""What a submission must look like, and the bodies of the API's errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response

from worker.wire import Input, NonEmpty

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError


class TolerantInput(Input):
    """An input as the server takes it: fields that it does not know are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Submission(BaseModel):
    """The body of a submission, to a judge's own path or, with a judge in it, to the common one."""

    model_config = ConfigDict(strict=True, extra="ignore")

    inputs: list[TolerantInput]
    tags: list[NonEmpty] | None = None
    judge_id: str | None = None
    judge_version_id: str | None = None
    project_id: str | None = None
    evaluator_ids: list[str] | None = None


class Problem(Exception):
    """An error as the API answers it."""

    def __init__(
        self, status: int, code: str, detail: Any, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.headers = status, code, detail, headers
        self.fields: Mapping[str, Any] | None = None

    def answer(self) -> Response:
        if self.fields is not None:
            return JSONResponse(dict(self.fields), self.status)
        body = {
            "type": "about:blank",
            "status": self.status,
            "title": self.detail,
            "detail": self.detail,
            "instance": None,
            "code": self.code,
        }
        return JSONResponse(body, self.status, headers=dict(self.headers or {}))


def field_problem(fields: Mapping[str, Any]) -> Problem:
    """400 with a body that names each field: `{"inputs": [{}, {"contexts": ["…"]}]}`."""
    problem = Problem(400, "invalid", "Invalid input.")
    problem.fields = fields
    return problem


def field_errors(error: ValidationError) -> dict[str, Any]:
    """Pydantic's errors by field; those of inputs as a list with an object for each input."""
    fields: dict[str, Any] = {}
    inputs: dict[int, dict[str, list[str]]] = {}
    for part in error.errors():
        place = [str(step) for step in part["loc"]]
        if len(part["loc"]) > 1 and part["loc"][0] == "inputs":
            index = int(part["loc"][1])
            name = ".".join(place[2:]) or "non_field_errors"
            inputs.setdefault(index, {}).setdefault(name, []).append(part["msg"])
        else:
            name = ".".join(place) or "non_field_errors"
            fields.setdefault(name, []).append(part["msg"])
    if inputs:
        fields["inputs"] = [inputs.get(index, {}) for index in range(max(inputs) + 1)]
    return fields
