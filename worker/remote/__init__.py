"""The client for the judge API sends requests, returns frozen values, and raises nothing.

client          one method per endpoint
pagination      the list, page by page
api_key         the key, and the file that it is read from
urls            the API's URLs; the key is sent nowhere else
transport       pooled connections
proxies         the proxy that the environment names
certificates    the certificates that servers are verified with
deadline        the limits of an exchange: its time and the size of its body
response_budget how much of large responses is in memory at a time
responses       the outcome of a status code and a body
error_messages  one-line reasons in the API's own words, without the key
parsing         batch executions, parsed leniently
json_values     single JSON values, converted leniently
"""

from worker.remote.client import JudgeAPI
from worker.remote.deadline import clock

__all__ = ["JudgeAPI", "clock"]
