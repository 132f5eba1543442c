"""The documented API, served durably, in front of the outbox: a job is a batch execution.

app       the paths, and who may use them
keys      whose key it is, for which judges, and how often
rates     how often a key may ask
taking    a submission becomes a job; answered after the commit
reading   polls are answered by a few threads
telling   how threads tell the event loop
showing   a job as the API shows a batch execution
listing   pages of them
document  the OpenAPI document of what is served
server    all of it on a port
"""
