"""What goes wrong in a schedule, and how often."""

from __future__ import annotations

from dataclasses import dataclass, fields
from random import Random


def happens(rng: Random, chance: float) -> bool:
    """The smallest draw means no: a failing schedule shrinks towards nothing going wrong."""
    return chance > 0.0 and rng.random() >= 1.0 - chance


@dataclass
class Faults:
    """Chances of each misbehaviour, per occasion."""

    # processes
    crash: float = 0.0
    pause: float = 0.0
    yield_after_commit: float = 0.0  # somebody else acts before this one goes on
    # the wire
    refuse: float = 0.0  # no connection: proved not to be sent
    lose_request: float = 0.0
    lose_answer: float = 0.0
    slow: float = 0.0  # others act while the request is under way
    stray: float = 0.0  # the request arrives after its sender has given up
    # the remote
    server_error: float = 0.0  # before the request had its effect
    gateway_error: float = 0.0  # after
    throttle: float = 0.0
    lie: float = 0.0
    fail_item: float = 0.0
    fresh_404: float = 0.0  # a new batch is not there for a moment
    vanish: float = 0.0  # a batch is gone, for a while or for good
    stick: float = 0.0  # a batch never ends
    strange: float = 0.0  # a batch is shown in another way than documented, to its end
    # the broker
    drop_message: float = 0.0
    double_message: float = 0.0
    late_message: float = 0.0
    # the database
    busy: float = 0.0  # nothing was committed: locked, deadlock, serialization failure
    lost_commit: float = 0.0  # committed, but the answer was lost


def drawn(rng: Random) -> Faults:
    """Each kind is absent in half of the schedules, so that they also meet alone."""
    return Faults(
        **{
            kind.name: rng.uniform(0.01, 0.25) if happens(rng, 0.5) else 0.0
            for kind in fields(Faults)
        }
    )
