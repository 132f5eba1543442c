"""The sandbox is a local judge API without a key: real HTTP, real measures, but no model.

app         the API's paths, responses and errors
options     latency, throttling and failures, reproducible by a seed
judges      named sets of evaluators, from `judges.toml`
ledger      the stored batches, and how often each input was evaluated
server      the sandbox on a port, in the background or in the foreground
"""
