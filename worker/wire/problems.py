"""Define the bodies of the API's errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from worker.wire.auth import SCHEME

if TYPE_CHECKING:
    from pydantic import ValidationError


_TITLES = {"throttled": "Throttled."}  # of every other error the title is the detail


class Problem(Exception):
    """An error with the API's body for it."""

    def __init__(
        self, status: int, code: str, detail: Any, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers = dict(headers or {})
        self.fields: Mapping[str, Any] | None = None

    def body(self) -> dict[str, Any]:
        if self.fields is not None:
            return dict(self.fields)
        return {
            "type": "about:blank",
            "status": self.status,
            "title": _TITLES.get(self.code, self.detail),
            "detail": self.detail,
            "instance": None,
            "code": self.code,
        }


def field_problem(fields: Mapping[str, Any]) -> Problem:
    """Return a 400 whose body names each field: `{"inputs": [{}, {"contexts": ["…"]}]}`."""
    problem = Problem(400, "invalid", "Invalid input.")
    problem.fields = fields
    return problem


def field_errors(error: ValidationError) -> dict[str, Any]:
    """Group pydantic's errors by field; those of `inputs` in a list with an object per input."""
    fields: dict[str, Any] = {}
    inputs: dict[int, dict[str, list[str]]] = {}
    for part in error.errors():
        path = [str(step) for step in part["loc"]]
        if len(part["loc"]) > 1 and part["loc"][0] == "inputs":
            index = int(part["loc"][1])
            name = ".".join(path[2:]) or "non_field_errors"
            inputs.setdefault(index, {}).setdefault(name, []).append(part["msg"])
        else:
            name = ".".join(path) or "non_field_errors"
            fields.setdefault(name, []).append(part["msg"])
    if inputs:
        fields["inputs"] = [inputs.get(index, {}) for index in range(max(inputs) + 1)]
    return fields


def not_authenticated() -> Problem:
    detail = "Authentication credentials were not provided."
    return Problem(401, "not_authenticated", detail, {"WWW-Authenticate": SCHEME})


def invalid_key() -> Problem:
    return Problem(401, "authentication_failed", "Invalid API key.", {"WWW-Authenticate": SCHEME})


def throttled(seconds: float | None) -> Problem:
    """Return a 429, with `Retry-After` if the seconds are given."""
    headers = {} if seconds is None else {"Retry-After": str(max(1, math.ceil(seconds)))}
    return Problem(429, "throttled", "Request was throttled.", headers)


def execution_not_found() -> Problem:
    return Problem(404, "not_found", "No BatchExecution matches the given query.")
