"""The judge API as this worker calls it: requests out, frozen values back, nothing raised.

client   sends, and turns whatever happens on the way into an outcome
address  which URLs are the API's own; the key goes to no other
bounds   how long an exchange may take, and how much an answer may hold
mapping  turns a status code and a body into an outcome
reasons  says what went wrong in one line, in the API's own words, without the key
pagination  reads the list page by page
reading  reads a batch execution, believing as little as it can
"""

from worker.remote.client import JudgeAPI
from worker.remote.deadline import clock
from worker.remote.parsing import storable

__all__ = ["JudgeAPI", "clock", "storable"]
