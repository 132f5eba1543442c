"""Read the body of a form that was sent by POST."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import Request

from worker.console.problems import PageProblem

MAX_BYTES = 256 * 1024
MAX_FIELDS = 5_000


async def read_form(request: Request) -> list[tuple[str, str]]:
    """Return the pairs of name and value, in order."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise PageProblem(413, "The form is too large.", "Choose fewer rows at a time.")
    try:
        return parse_qsl(
            body.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"
        )
    except ValueError:  # UnicodeDecodeError is one
        raise PageProblem(400, "The form cannot be read.", "Go back and send it again.") from None
