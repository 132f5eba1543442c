"""A local judge API for machines without a key: real HTTP, real measures, but no model.

app         the API's paths, responses and errors
options     latency, throttling and failures, reproducible by a seed
judges      named sets of evaluators, from `judges.toml`
evaluators  deterministic measures, named for what they measure
ledger      stores every batch, and counts how often each input was evaluated
server      runs the sandbox in the background or in the foreground
"""
