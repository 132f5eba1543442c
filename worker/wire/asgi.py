"""Read request bodies and make error responses, for the API's servers."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from worker.wire.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

_CODES = {404: "not_found", 405: "method_not_allowed"}


async def read_json(request: Request, *, max_bytes: int) -> Any:
    """Return the parsed body; raise `Problem`, 413 if it is too large, 400 if it is not JSON."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > len(str(max_bytes)) or int(declared) > max_bytes):
        raise _too_large()
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large()
    try:
        return json.loads(body, parse_constant=_not_json)
    except (ValueError, RecursionError):
        raise Problem(400, "parse_error", "JSON parse error.") from None


def _too_large() -> Problem:
    # The rest of the body stays unread, so that the connection cannot be reused.
    return Problem(413, "too_large", "Request body is too large.", {"Connection": "close"})


def _not_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def problem_response(problem: Problem) -> Response:
    return JSONResponse(problem.body(), problem.status, headers=problem.headers)


async def http_error_response(_request: Request, error: Exception) -> Response:
    """Respond to Starlette's own exceptions: unknown path, or method not allowed."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = getattr(error, "headers", None)
    detail = HTTPStatus(status).phrase + "."
    return problem_response(Problem(status, _CODES.get(status, "error"), detail, headers))
