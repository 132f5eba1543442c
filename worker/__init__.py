"""evalworker evaluates durably over the Judge Batch Execution API.

Producers need `enqueue` and its error, `InvalidInputs`. Operators use `worker.admin`.
"""

from worker.errors import InvalidInputs
from worker.outbox import enqueue

__all__ = ["InvalidInputs", "__version__", "enqueue"]

__version__ = "0.1.0"  # the only place: packaging, the image and the User-Agent follow it
