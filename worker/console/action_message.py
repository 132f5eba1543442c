"""Say on the next page what an action did: its address has numbers, the sentence is made here."""

from __future__ import annotations

from collections.abc import Mapping

from worker.console.parameters import Parameters
from worker.domain.phrases import quantity

NAMES = ("done", "inputs", "jobs", "refused", "at_judge")
ACTIONS = ("retry", "cancel", "pause", "resume", "resolve")


def without_message(query: Mapping[str, str]) -> dict[str, str]:
    """Return the query of a page without what an action left there, for further links."""
    if "done" not in query:
        return dict(query)
    return {name: value for name, value in query.items() if name not in NAMES}


def action_message(query: Parameters) -> str | None:
    """Return what was done; None if the page does not follow an action."""
    done = query.choice("done", ACTIONS)
    if done is None:
        return None
    inputs = quantity(query.integer("inputs") or 0, "input")
    jobs = quantity(query.integer("jobs") or 1, "job")
    match done:
        case "retry":
            return f"{inputs} of {jobs} will be evaluated again.{_refused(query)}"
        case "cancel":
            return f"{inputs} of {jobs} cancelled.{_at_judge(query)}{_refused(query)}"
        case "pause":
            return "Paused: nothing new is submitted until somebody resumes."
        case "resume":
            return "Resumed: what waited is due now."
        case _:
            return "The batch goes on."


def _refused(query: Parameters) -> str:
    refused = query.integer("refused")
    if not refused:
        return ""
    return f" {quantity(refused, 'job')} could not be changed: try one by itself to see why."


def _at_judge(query: Parameters) -> str:
    count = query.integer("at_judge")
    if not count:
        return ""
    return f" The judge evaluates {count:,} of them all the same; their results are dropped."
