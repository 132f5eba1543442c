"""What both servers do with a request before they look into it, and with an error after."""

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
    """The parsed body; raises `Problem` where it is too large, 413, or no JSON, 400."""
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
    # The rest of the body is not read: the connection cannot be used again.
    return Problem(413, "too_large", "Request body is too large.", {"Connection": "close"})


def _not_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def problem_response(problem: Problem) -> Response:
    return JSONResponse(problem.body(), problem.status, headers=problem.headers)


async def http_error_response(_request: Request, error: Exception) -> Response:
    """For Starlette's own exceptions: no route, or not with this method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = getattr(error, "headers", None)
    words = HTTPStatus(status).phrase + "."
    return problem_response(Problem(status, _CODES.get(status, "error"), words, headers))
