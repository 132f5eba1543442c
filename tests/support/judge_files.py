"""Files that define a judge over a stand-in for a model, and whether it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

EVALUATOR = """\
name: {name}
objective: {{intent: How {name} is it}}
scoring_criteria: How {name} is {{{{ response }}}} as a response to {{{{ request }}}}?
calibration:
- {{request: q, response: good, score: 1}}
- {{request: q, response: bad, score: 0}}
"""


def write_judge(
    folder: Path, url: str, *, evaluators: int = 1, samples: int = 1, **model: Any
) -> Path:
    """Write `judges.toml` with the judge `own`, and its evaluators; return the file's path."""
    names = [f"nice{number}" for number in range(evaluators)]
    for name in names:
        (folder / f"{name}.yaml").write_text(EVALUATOR.format(name=name))
    fields = {"url": url, "model": "stand-in", "concurrency": 4, **model}
    lines = [f"{name} = {_toml(value)}" for name, value in fields.items()]
    files = ", ".join(f'"{name}.yaml"' for name in names)
    path = folder / "judges.toml"
    path.write_text(
        "\n".join(["[models.local]", *lines])
        + f'\n[judges.own]\nevaluators = [{files}, "Non-empty"]\nsamples = {samples}\n'
    )
    return path


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/judges/").status_code == 200
    except httpx.TransportError:
        return False


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
