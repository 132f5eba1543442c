"""Choose how the sandbox behaves and misbehaves, reproducibly by a seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """How the sandbox behaves. Shares are from 0 to 1, times in seconds."""

    api_key: str = "sandbox-key"
    latency: tuple[float, float] = (0.5, 1.5)  # of a batch: minimum and maximum
    max_running: int | None = None  # batches; a further one gets 429
    requests_per_second: float | None = None  # a further one gets 429
    retry_after: bool = True  # whether a 429 says when to try again
    max_body_bytes: int = 32 * 1024 * 1024  # a longer body gets 413
    fail_items: float = 0.0  # share of items that end as `failed`
    lose_answers: float = 0.0  # share of accepted submissions whose connection is then closed
    server_errors: float = 0.0  # share of requests that get 503 and have no effect
    show_tags: bool = True  # as newer servers do
    serve_list: bool = True  # if not, the list gets 404
    items_while_running: Literal["all", "partial", "none"] = "all"
    shuffle_items: bool = False  # whether items come in another order than that of their indexes
    seed: int = 0

    def chance(self, *what: object) -> float:
        """Return a number in [0, 1) that depends on the seed and on `what` alone."""
        text = "\x1f".join(str(part) for part in (self.seed, *what))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]) / 2**56

    def latency_of(self, batch_id: str) -> float:
        low, high = self.latency
        return low + (high - low) * self.chance("latency", batch_id)
