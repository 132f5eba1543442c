"""Waits of the worker that tests shorten in a process of their own, where nothing depends on them.

None of this is a setting: a user who shortened these waits would pay for it with duplicate work.
"""

from __future__ import annotations

from typing import Any

from worker.config import Settings
from worker.domain import backoff

SEARCH_WAITS = (0.1, 0.25, 0.75, 1.5)


def shorten_waits() -> None:
    """Search for lost submissions within seconds, and accept a lease of less than five seconds."""
    backoff.SEARCH_WAITS = SEARCH_WAITS
    accept_short_leases()


def accept_short_leases() -> None:
    """Remove the bounds of `lease_seconds`."""
    field: Any = Settings.model_fields["lease_seconds"]
    field.metadata = []
    Settings.model_rebuild(force=True)
