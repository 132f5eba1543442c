"""The OpenAPI document of what is served, made of the wire's own types."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from worker import __version__
from worker.gateway.submit import KEY_PATTERN
from worker.wire.auth import SCHEME
from worker.wire.paths import EXECUTE_PATH, LIST_PATH, STATUS_PATH
from worker.wire.schemas import STATUSES, Accepted, Execution, Page, ProblemBody
from worker.wire.submission import MAX_INPUTS, Submission

_ASKED = (Submission,)
_ANSWERED = (Accepted, Execution, Page, ProblemBody)
_ERRORS = {
    400: "Something that was sent is wrong.",
    401: "No key, or none that is known.",
    403: "Out of this key's scope.",
    404: "No such batch execution, or another key's.",
    413: "The body is too large.",
    422: "The Idempotency-Key was used for another submission.",
    429: "More requests than this key may make.",
    503: "The database is away for a moment.",
}
_FIELD_ERRORS = {
    "type": "object",
    "description": "What is wrong, by field; of inputs, an object for each.",
    "additionalProperties": {"type": "array", "items": {"type": ["string", "object"]}},
}


def document(*, max_inputs: int = MAX_INPUTS) -> dict[str, Any]:
    """OpenAPI 3.1, as JSON."""
    schemas = _schemas()
    schemas["FieldErrors"] = _FIELD_ERRORS
    inputs = schemas["Submission"]["properties"]["inputs"]
    inputs |= {"minItems": 1, "maxItems": max_inputs}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Judge batch executions, served by evalworker",
            "version": __version__,
            "description": "Batches of inputs for a judge, taken durably and evaluated later.",
        },
        "paths": {
            EXECUTE_PATH: {"post": _submit()},
            LIST_PATH: {"get": _list()},
            STATUS_PATH: {"get": _status()},
        },
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": f"`{SCHEME} <key>`",
                }
            },
        },
        "security": [{"key": []}],
    }


def _schemas() -> dict[str, Any]:
    """Of all types by their names, those inside of others too."""
    kinds: list[tuple[Any, str]] = [(kind, "validation") for kind in _ASKED]
    kinds += [(kind, "serialization") for kind in _ANSWERED]
    adapters: list[Any] = [(kind.__name__, mode, TypeAdapter(kind)) for kind, mode in kinds]
    found, shared = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")
    whole = {name: schema for (name, _), schema in found.items() if "$ref" not in schema}
    return {**shared.get("$defs", {}), **whole}


def _submit() -> dict[str, Any]:
    key = _parameter("Idempotency-Key", "header", pattern=KEY_PATTERN)
    key["description"] = "The same key again answers the first submission's id, and takes nothing."
    return {
        "operationId": "judges_batch_execute_create",
        "summary": "Submit a batch of inputs; answered when it is committed.",
        "parameters": [_parameter("judge_id", "path"), key],
        "requestBody": {"required": True, "content": _json("Submission")},
        "responses": {"202": _answer("Taken.", "Accepted"), **_errors(400, 413, 422)},
    }


def _list() -> dict[str, Any]:
    return {
        "operationId": "judges_batch_executions_list",
        "summary": "List batch executions without their items, newest first.",
        "parameters": [
            _parameter("judge_id", "query"),
            _parameter("status", "query", enum=list(STATUSES)),
            _parameter("date_from", "query", format="date-time"),
            _parameter("date_to", "query", format="date-time"),
            _parameter("project_id", "query"),
            _parameter("page_size", "query", type="integer", minimum=1),
            _parameter("cursor", "query"),
        ],
        "responses": {"200": _answer("A page.", "Page"), **_errors(400)},
    }


def _status() -> dict[str, Any]:
    return {
        "operationId": "judges_batch_executions_retrieve",
        "summary": "How far a batch execution is, with each input and its results.",
        "parameters": [_parameter("id", "path", format="uuid")],
        "responses": {"200": _answer("As it is now.", "Execution"), **_errors(404)},
    }


def _parameter(name: str, place: str, **schema: Any) -> dict[str, Any]:
    given = {"name": name, "in": place, "schema": {"type": "string", **schema}}
    return {**given, "required": True} if place == "path" else given


def _errors(*statuses: int) -> dict[str, Any]:
    """Those of every path, and these."""
    return {str(status): _error(status) for status in sorted({401, 403, 429, 503, *statuses})}


def _error(status: int) -> dict[str, Any]:
    answer = _answer(_ERRORS[status], "ProblemBody")
    if status == 400:
        schema = {"anyOf": [_ref("ProblemBody"), _ref("FieldErrors")]}
        answer["content"] = {"application/json": {"schema": schema}}
    if status in (429, 503):
        answer["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}
        }
    return answer


def _answer(description: str, name: str) -> dict[str, Any]:
    return {"description": description, "content": _json(name)}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(name)}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
