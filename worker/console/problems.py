"""Define what a page says instead of its content: what is wrong, and what to do about it."""

from __future__ import annotations


class PageProblem(Exception):
    """A request that cannot be answered as it was made.

    Attributes:
        status: HTTP status of the page.
        title: What is wrong, as one sentence.
        advice: What to do about it.
    """

    def __init__(self, status: int, title: str, advice: str = "") -> None:
        self.status = status
        self.title = title
        self.advice = advice
        super().__init__(title)


def invalid_parameter(name: str, value: str, allowed: str) -> PageProblem:
    return PageProblem(
        400,
        f"The address has {name}={value[:60]}, which is not {allowed}.",
        "Correct the address, or go back and choose again.",
    )


def not_found(what: str) -> PageProblem:
    advice = "It may have been pruned, or the link may be incomplete."
    return PageProblem(404, f"There is no {what}.", advice)


def not_allowed(reason: str) -> PageProblem:
    return PageProblem(403, reason, "Ask an operator, or sign in as one.")
