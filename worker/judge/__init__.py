"""Serve the judge API over any OpenAI-compatible endpoint: a judge of one's own, durably.

evaluator_files  evaluators as portable YAML, from disk and as they come with the package
judges_file      judges and models: `judges.toml`
judges           judges whose versions follow from their content
measures         deterministic evaluators, which need no model
prompt           what a model is asked
model_score      what its response says: a score with its reasons, or why there is none
endpoint         calls of one model: structured output, waits for outages and for the budget
ledger           batches, evaluations, samples and costs in SQLite
engine           evaluations that wait, and the calls that they need
app              the API's paths and responses
calibration      how far evaluators are from the scores that people gave
usage            tokens and costs, for Prometheus
server           the service, or the sandbox before it, in the background or in the foreground
"""
