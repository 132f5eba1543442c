"""The client for the judge API: it sends requests and returns frozen values, and raises nothing.

client          one method per endpoint
pagination      reads the list page by page
urls            builds URLs, and decides to which of the remote's the key may be sent
transport       pooled connections
deadline        limits the time of an exchange and the size of a body
responses       turns a status code and a body into an outcome
error_messages  one-line reasons in the API's own words, without the key
parsing         parses batch executions leniently
json_values     converts single JSON values leniently
"""

from worker.remote.client import JudgeAPI
from worker.remote.deadline import clock

__all__ = ["JudgeAPI", "clock"]
