"""Write commands for jq, which turns any JSON into the one that is needed."""

from __future__ import annotations

import json
import re

_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def jq_command(program: str) -> str:
    """Return the command that enqueues what a program of jq makes of the file."""
    return f"jq -c '{program}' FILE | evalworker enqueue - …"


def jq_lines_command(program: str) -> str:
    """Return the command that enqueues what a program makes of each line of a text."""
    return f"jq -Rc '{program}' FILE | evalworker enqueue - …"


def jq_path(path: str | None) -> str:
    """Return jq's expression for `a.b.0`; without a path, for the value itself."""
    steps = [] if path is None else path.split(".")
    expression = "".join(_step(step) for step in steps)
    return expression if expression.startswith(".") else f".{expression}"


def _step(step: str) -> str:
    if step.isdigit():
        return f"[{step}]"
    return f".{step}" if _WORD.fullmatch(step) else f".{json.dumps(step)}"
