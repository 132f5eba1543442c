"""Say on the next page what an action did: a cookie has numbers, the sentence is made here.

An address could not carry them, as anybody can write one, and it can be shared and loaded again.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from worker.console.parameters import Parameters
from worker.console.problems import PageProblem
from worker.domain.phrases import quantity

COOKIE = "evalworker_console_done"
COOKIE_SECONDS = 60  # until the next page, which removes it
ACTIONS = ("retry", "cancel", "pause", "resume", "resolve")


def action_message(cookie: str) -> str | None:
    """Return what was done; None if that is not what the cookie says."""
    try:
        return _sentence(Parameters(parse_qsl(cookie)))
    except (PageProblem, ValueError):
        return None


def _sentence(outcome: Parameters) -> str | None:
    done = outcome.choice("done", ACTIONS)
    if done is None:
        return None
    inputs = quantity(outcome.integer("inputs") or 0, "input")
    jobs = quantity(outcome.integer("jobs") or 1, "job")
    match done:
        case "retry":
            return f"{inputs} of {jobs} will be evaluated again.{_refused(outcome)}"
        case "cancel":
            return f"{inputs} of {jobs} cancelled.{_at_judge(outcome)}{_refused(outcome)}"
        case "pause":
            return "Paused: nothing new is submitted until somebody resumes."
        case "resume":
            return "Resumed: what waited is due now."
        case _:
            return "The batch goes on."


def _refused(outcome: Parameters) -> str:
    refused = outcome.integer("refused")
    if not refused:
        return ""
    return f" {quantity(refused, 'job')} could not be changed: try one by itself to see why."


def _at_judge(outcome: Parameters) -> str:
    count = outcome.integer("at_judge")
    if not count:
        return ""
    return f" The judge evaluates {count:,} of them all the same; their results are dropped."
