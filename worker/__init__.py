"""evalworker: durable evaluation over the Judge Batch Execution API.

Producers need one name: `from worker import enqueue`.
"""

from worker.errors import InvalidInputs
from worker.outbox import enqueue

__all__ = ["InvalidInputs", "enqueue"]
