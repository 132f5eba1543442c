"""Decide how a batch goes on that was submitted, but is nowhere to be found at the remote.

Its submission had no usable response, and several searches found nothing. It may have been
evaluated all the same, so it counts as an attempt, unless the remote has shown that it did nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class Doubt:
    """What is known of such a batch."""

    item_count: int
    attempts: int  # of the item that has most, this submission included
    has_list: bool  # whether the searches could read a list
    is_repeated_error: bool  # whether this and an earlier submission had a 5xx response
    others_pass: bool  # whether the judge took another batch since that earlier one
    is_alone: bool  # whether the judge has no other live batch


class Continuation(Enum):
    """How the batch goes on."""

    SUBMIT_AGAIN = auto()  # counted as an attempt
    SPLIT = auto()  # in two halves; counted as an attempt
    BLAME = auto()  # refused like a 400: split without counting it, or failed if it is one input
    HOLD = auto()  # a person decides


def continue_in_doubt(doubt: Doubt, *, max_attempts: int) -> Continuation:
    """Decide how the batch goes on.

    A judge that responds to one batch with 5xx again and again, accepts others meanwhile and lists
    nothing of it chokes on one of its inputs. A lone input is blamed after its last attempt only:
    some servers respond with 5xx now and then. While the judge accepts nothing at all, a bad input
    looks like an outage; only a batch that is alone is split to find out.
    """
    is_last = doubt.attempts >= max_attempts
    is_choking = doubt.is_repeated_error and doubt.others_pass and doubt.has_list
    if is_choking and (doubt.item_count > 1 or is_last):
        return Continuation.BLAME
    if is_last:
        return Continuation.HOLD
    if doubt.is_repeated_error and doubt.item_count > 1 and (doubt.others_pass or doubt.is_alone):
        return Continuation.SPLIT
    return Continuation.SUBMIT_AGAIN
