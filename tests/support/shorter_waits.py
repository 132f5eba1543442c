"""Waits of the worker that tests shorten in a process of their own, where nothing depends on them.

None of this is a setting: a user who shortened these waits would pay for it with duplicate work.
"""

from __future__ import annotations

import sys
from typing import Any

from worker.config import Settings
from worker.domain import backoff
from worker.pipeline import submit  # noqa: F401 (uses the constants below)

SEARCH_WAITS = (0.1, 0.25, 0.75, 1.5)


def shorten_waits() -> None:
    """Search for lost submissions within seconds, and accept a lease of less than five seconds."""
    replace_constant(backoff.LOOKS, SEARCH_WAITS)
    accept_short_leases()


def replace_constant(constant: object, value: object) -> None:
    """Replace a constant in each module of the worker that has imported it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "worker":
            for attribute, found in list(vars(module).items()):
                if found is constant:
                    setattr(module, attribute, value)


def accept_short_leases() -> None:
    """Remove the bounds of `lease_seconds`."""
    field: Any = Settings.model_fields["lease_seconds"]
    field.metadata = []
    Settings.model_rebuild(force=True)
