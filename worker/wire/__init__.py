"""Define the judge API once, for its client and its servers.

paths       the URLs
auth        the key of a request
inputs      one input of a submission; `enqueue` validates it, too
submission  the body of a submission
list_query  the query parameters of the list
pages       pages of the list, for servers that number their rows
schemas     the response bodies
problems    the error bodies
asgi        request bodies and error responses of the servers

Source: the vendor's OpenAPI documents of 2025-11 to 2026-10, and its Python clients. What this
project sends, accepts and serves is strict, as defined here; `worker.remote` reads responses
leniently.
"""
