"""Derive the OpenAPI document of what is served from the wire's types."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from worker import __version__
from worker.gateway.submit import KEY_PATTERN
from worker.wire.auth import SCHEME
from worker.wire.list_query import ListQuery
from worker.wire.paths import EXECUTE_PATH, LIST_PATH, STATUS_PATH
from worker.wire.schemas import Accepted, Execution, FieldErrors, Page, ProblemBody
from worker.wire.submission import MAX_INPUTS, Submission

_RESPONSES = (Accepted, Execution, Page, ProblemBody, FieldErrors)
_ERRORS = {
    400: "A part of the request is invalid.",
    401: "The key is missing or unknown.",
    403: "This key may not use the judge.",
    404: "This key has no such batch execution.",
    413: "The body is too large.",
    422: "The Idempotency-Key was used for another submission.",
    429: "The key has reached its rate limit.",
    503: "The database is unavailable for a moment.",
}
# What Python calls white space, which `\s` of JavaScript is not quite.
HAS_WORDS = r"[^\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_CONTENT = [  # one of `CONTENT_FIELDS`, with something to evaluate
    {"required": [name], "properties": {name: schema}}
    for name, schema in (
        ("request", {"type": "string", "pattern": HAS_WORDS}),
        ("response", {"type": "string", "pattern": HAS_WORDS}),
        ("turns", {"type": "array", "minItems": 1}),
    )
]
_ERRORS_OF_EVERY_PATH = (401, 403, 429, 503)


def document(*, max_inputs: int = MAX_INPUTS) -> dict[str, Any]:
    """Return the document, OpenAPI 3.1."""
    schemas = _schemas()
    schemas["Submission"]["properties"]["inputs"] |= {"minItems": 1, "maxItems": max_inputs}
    schemas["TolerantInput"]["anyOf"] = _CONTENT
    key = _parameter("header", "Idempotency-Key", {"type": "string", "pattern": KEY_PATTERN})
    key["description"] = "A repeated key returns the first submission's id and adds nothing."
    submit = {
        "operationId": "judges_batch_execute_create",
        "summary": "Submit a batch of inputs; the response comes after the commit.",
        "parameters": [_parameter("path", "judge_id", {"type": "string"}), key],
        "requestBody": {"required": True, "content": _content("Submission")},
        "responses": _responses(202, "Accepted", schemas, 400, 413, 422),
    }
    list_ = {
        "operationId": "judges_batch_executions_list",
        "summary": "List batch executions without their items, newest first.",
        "parameters": _query_parameters(),
        "responses": _responses(200, "Page", schemas, 400),
    }
    status = {
        "operationId": "judges_batch_executions_retrieve",
        "summary": "Get a batch execution with its inputs and the results so far.",
        "parameters": [_parameter("path", "id", {"type": "string", "format": "uuid"})],
        "responses": _responses(200, "Execution", schemas, 404),
    }
    authorization = {"in": "header", "name": "Authorization", "description": f"`{SCHEME} <key>`"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Judge batch executions, served by evalworker",
            "version": __version__,
            "description": "Batches of inputs for a judge, stored durably and evaluated later.",
        },
        "paths": {
            EXECUTE_PATH: {"post": submit},
            LIST_PATH: {"get": list_},
            STATUS_PATH: {"get": status},
        },
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"key": {"type": "apiKey", **authorization}},
        },
        "security": [{"key": []}],
    }


def _schemas() -> dict[str, Any]:
    """Return the schemas of all bodies, and of the types inside them, by name."""
    adapters: list[Any] = [("Submission", "validation", TypeAdapter(Submission))]
    adapters += [(model.__name__, "serialization", TypeAdapter(model)) for model in _RESPONSES]
    found, shared = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")
    whole = {name: schema for (name, _), schema in found.items() if "$ref" not in schema}
    return {**shared.get("$defs", {}), **whole}


def _query_parameters() -> list[dict[str, Any]]:
    parameters = []
    for name, schema in TypeAdapter(ListQuery).json_schema()["properties"].items():
        schema = schema.get("anyOf", [schema])[0]  # a query cannot carry the other one, null
        kept = {key: schema[key] for key in ("type", "enum", "format", "minimum") if key in schema}
        parameters.append(_parameter("query", name, kept))
    return parameters


def _parameter(location: str, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    required = {"required": True} if location == "path" else {}
    return {"name": name, "in": location, "schema": schema, **required}


def _responses(
    status: int, model: str, schemas: dict[str, Any], *errors: int
) -> dict[str, dict[str, Any]]:
    success = {"description": schemas[model]["description"], "content": _content(model)}
    statuses = sorted({*errors, *_ERRORS_OF_EVERY_PATH})
    return {str(status): success, **{str(error): _error(error) for error in statuses}}


def _error(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {"description": _ERRORS[status], "content": _content("ProblemBody")}
    if status == 400:
        response["content"] = _content("ProblemBody", "FieldErrors")
    if status in (429, 503):
        seconds = {"description": "Seconds.", "schema": {"type": "integer"}}
        response["headers"] = {"Retry-After": seconds}
    return response


def _content(*models: str) -> dict[str, Any]:
    references = [{"$ref": f"#/components/schemas/{model}"} for model in models]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {"application/json": {"schema": schema}}
