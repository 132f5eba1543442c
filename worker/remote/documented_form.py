"""Read a batch execution whose items have the documented form, in one compiled pass.

That is nearly every response, and takes half the time of `parsing`, which reads whatever else a
server may send. Both read the same from a response that has this form.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from worker.domain.outcomes import EvaluatorResult, RemoteItem

# A text with it cannot be stored as it is; one with a lone surrogate is refused by the parser.
_NUL = b"\\u0000"


@with_config(ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class _Result(TypedDict):
    """The fields that have a column. Results with another one are for `parsing`, which keeps it."""

    evaluator_name: Annotated[str, Field(min_length=1)]
    score: float | None
    justification: str | None
    evaluator_id: NotRequired[str | None]
    evaluator_version_id: NotRequired[str | None]
    confidence: NotRequired[float | None]


@with_config(ConfigDict(strict=True))
class _Item(TypedDict):
    index: Annotated[int, Field(ge=0, lt=2**31)]
    status: str
    evaluator_results: NotRequired[list[_Result] | None]
    error_message: NotRequired[str | None]
    execution_log_id: NotRequired[str | None]
    input: NotRequired[dict[str, Any] | None]


@with_config(ConfigDict(strict=True, extra="allow"))
class _Batch(TypedDict):
    items: list[_Item]


_BATCH = TypeAdapter(_Batch)


def parse_documented(content: bytes | bytearray) -> dict[str, Any] | None:
    """Parse a response; None unless its items have the documented form."""
    if _NUL in content:
        return None
    try:
        return dict(_BATCH.validate_json(content))
    except ValidationError:
        return None


def read_documented_items(items: Iterable[_Item]) -> tuple[RemoteItem, ...]:
    """Read the items of a response that `parse_documented` has parsed."""
    return tuple(
        [
            RemoteItem(
                index=item["index"],
                status=item["status"].strip().lower(),
                evaluator_results=tuple(
                    [EvaluatorResult(**result) for result in item.get("evaluator_results") or ()]
                ),
                error_message=item.get("error_message") or "",
                execution_log_id=item.get("execution_log_id"),
                input=item.get("input"),  # only compared, and never stored
            )
            for item in items
        ]
    )
