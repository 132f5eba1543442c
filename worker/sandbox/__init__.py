"""The judge API in a box, for a machine without a key: real HTTP, real measures, no model.

app         the API's paths, answers and errors
options     latency, throttling and failures, all by choice and by seed
judges      named sets of evaluators, from `judges.toml`
evaluators  deterministic measures, named for what they measure
ledger      every batch on disk, and the account of what was evaluated how often
server      on a loopback port, in the background or in the foreground
"""
