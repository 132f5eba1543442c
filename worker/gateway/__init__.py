"""Serve the documented API, durably, in front of the outbox: a job is a batch execution.

app           the routes, and which errors become which responses
auth          the keys: whose they are and for which judges
rate_limit    a token bucket for each key
submit        turns a submission into a job; responds after the commit
group_commit  commits submissions that wait at the same time together
reader        answers polls from a few threads
responses     a job in the API's form of a batch execution
pagination    pages of the list and their cursors
openapi       the OpenAPI document of what is served
server        the application on its port
"""
