"""Define the API's paths: segments for clients, which build URLs, and templates for servers."""

from __future__ import annotations

JUDGES = ("v1", "judges")
EXECUTIONS = ("v1", "judges", "batch-executions")


def batch_execute(judge_id: str) -> tuple[str, ...]:
    return ("v1", "judges", judge_id, "batch-execute")


def path(*segments: str) -> str:
    """Return a path; every path of the API ends in a slash."""
    return f"/{'/'.join(segments)}/"


EXECUTE_PATH = path(*batch_execute("{judge_id}"))
JUDGES_PATH = path(*JUDGES)
LIST_PATH = path(*EXECUTIONS)
STATUS_PATH = path(*EXECUTIONS, "{id}")
COMMON_PATH = path("v1", "batch-executions")  # of newer servers, with the judge in the body
