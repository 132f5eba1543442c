"""How the sandbox behaves, and how it misbehaves: by choice, and the same way for the same seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """Rates are shares from 0 to 1; times are seconds."""

    api_key: str = "sandbox-key"
    latency: tuple[float, float] = (0.5, 1.5)  # of a batch, between these two
    max_running: int | None = None  # batches at once; more are answered 429
    requests_per_second: float | None = None  # more are answered 429
    retry_after: bool = True  # whether a 429 says when to come back
    max_body_bytes: int = 32 * 1024 * 1024  # a longer body is answered 413
    fail_items: float = 0.0  # items that end `failed`
    lose_answers: float = 0.0  # submissions that are taken, and answered by a closed connection
    server_errors: float = 0.0  # requests answered 503 before anything is done
    show_tags: bool = True  # newer servers do
    serve_list: bool = True  # without it, the list is answered 404
    items_while_running: Literal["all", "partial", "none"] = "all"
    shuffle_items: bool = False  # items need not come in the order of their index
    seed: int = 0

    def chance(self, *what: object) -> float:
        """A number from 0 up to 1 that depends on the seed and on `what` alone."""
        text = "\x1f".join(str(part) for part in (self.seed, *what))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]) / 2**56

    def latency_of(self, batch_id: str) -> float:
        low, high = self.latency
        return low + (high - low) * self.chance("latency", batch_id)
