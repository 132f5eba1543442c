"""How often a key may ask: so many requests a second, with a second's worth at once; pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Rate:
    """Fills up with time; `now` is in seconds and never goes back."""

    per_second: float
    left: float = 0.0
    at: float = float("-inf")

    def take(self, now: float) -> float:
        """Takes one request; or takes nothing, and says in how many seconds one can be taken."""
        most = max(1.0, self.per_second)
        self.left = min(most, self.left + (now - self.at) * self.per_second)
        self.at = now
        if self.left < 1.0:
            return (1.0 - self.left) / self.per_second
        self.left -= 1.0
        return 0.0
