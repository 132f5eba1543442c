"""The judge API's definition, once: for its client, for the sandbox and for the gateway.

inputs      one input; checked by `enqueue`, too
submission  the body of a POST
queries     what the list can be asked for
shapes      what is answered
problems    the bodies of errors
headers     the key of a request
paths       where everything is
serving     what both servers do with a request before they look into it

Source: the vendor's OpenAPI documents of 2025-11 to 2026-10, and its Python clients. Answers are
read leniently, in `worker.remote`; what we send, accept and answer is strict, here.
"""
