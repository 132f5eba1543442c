"""evalworker: durable evaluation over the Judge Batch Execution API.

Producers need `enqueue` and its error, `InvalidInputs`. Operators use `worker.admin`.
"""

from worker.errors import InvalidInputs
from worker.outbox import enqueue

__all__ = ["InvalidInputs", "enqueue"]
