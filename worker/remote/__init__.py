"""The judge API as this worker calls it: requests out, frozen values back, nothing raised.

client   sends, within a deadline and bounds, and never leaves the API's own origin
mapping  turns an answer's status and body into an outcome, and its error into one line
reading  reads a batch execution, believing as little as it can
"""

from worker.remote.client import JudgeAPI
from worker.remote.reading import storable

__all__ = ["JudgeAPI", "storable"]
