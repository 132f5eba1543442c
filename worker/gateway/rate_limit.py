"""Limit requests by a token bucket.

The source is Turner, "New directions in communications", IEEE Communications, 1986."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """Allows `per_second` requests a second on average, and a second's worth in a burst."""

    per_second: float
    tokens: float = 0.0
    filled_at: float = float("-inf")  # so that a new bucket is full

    def take(self, now: float) -> float:
        """Take a token and return 0; if there is none, return the seconds until there is one.

        `now` is in seconds and never goes back.
        """
        capacity = max(1.0, self.per_second)
        self.tokens = min(capacity, self.tokens + (now - self.filled_at) * self.per_second)
        self.filled_at = now
        if self.tokens < 1.0:
            return (1.0 - self.tokens) / self.per_second
        self.tokens -= 1.0
        return 0.0
