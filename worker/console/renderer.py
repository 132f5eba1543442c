"""Render the templates: escaped always, with hidden characters visible, and strict about names."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from worker.console import charts
from worker.console.hostile_text import beginning, clip, marked, visible
from worker.domain.intervals import Interval, NoInterval
from worker.domain.number_format import interval_text, score_text
from worker.domain.phrases import duration, quantity, tag_texts

STATIC = Path(__file__).parent / "static"


@cache
def static_version(name: str) -> str:
    """Return a short hash of a static file, which its address carries."""
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


@cache
def template_environment() -> Environment:
    """Build the environment of all pages; compiled templates are shared by all threads."""
    environment = Environment(
        loader=PackageLoader("worker.console"),
        autoescape=True,
        auto_reload=False,  # an update of the files is not half of a running console
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {
        "beginning": beginning,
        "breakable": _breakable,
        "clip": clip,
        "count": "{:,}".format,
        "duration": duration,
        "exact": _exact,
        "interval": _interval,
        "marked": marked,
        "minute": _minute,
        "moment": moment,
        "quantity": quantity,
        "score": score_text,
        "short": "{:g}".format,
        "short_id": _short_id,
        "tag_texts": tag_texts,
    }
    environment.globals |= {
        "histogram": charts.histogram,
        "progress_bar": charts.progress_bar,
        "score_bar": charts.score_bar,
        "static_version": static_version,
    }
    return environment


def load_templates() -> None:
    """Compile every template now, a sixth of a second, as their files may change later."""
    environment = template_environment()
    for name in environment.list_templates():
        environment.get_template(name)


def _finalize(value: Any) -> Any:
    """Make every expression safe to read: None is nothing, hidden characters have names."""
    if value is None:
        return ""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value)
    return value


def _breakable(name: str) -> Markup:
    """Return a name that may be broken after each `_`, for narrow columns."""
    return Markup("_<wbr>").join(visible(name).split("_"))


def _exact(value: object) -> Markup:
    """Return a value for a form's field: escaped, but otherwise as it is."""
    return escape("" if value is None else value)


def _minute(value: datetime | None) -> str:
    """Return a time as a form's field has it, in UTC."""
    return "" if value is None else value.replace(tzinfo=None).isoformat(timespec="minutes")


def moment(value: datetime | None) -> Markup:
    """Return a time as people read it, with its age; browsers show the exact one on hover."""
    if value is None:
        return Markup("")
    at = value.astimezone(UTC)
    age = duration((datetime.now(UTC) - at).total_seconds())
    return Markup('<time datetime="{}" title="{} UTC">{} ago</time>').format(
        at.isoformat(), f"{at:%Y-%m-%d %H:%M:%S}", age
    )


def _interval(interval: Interval | NoInterval, *, signed: bool = False) -> str:
    """Return an interval with its meaning, or why there is none."""
    text = interval_text(interval, signed=signed)
    return f"no interval: {text}" if isinstance(interval, NoInterval) else f"95 % interval {text}"


def _short_id(value: UUID) -> str:
    """Return the end of an id: the random part, in which ids of one moment differ."""
    return f"…{str(value)[-12:]}"
