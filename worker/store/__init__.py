"""Every SQL statement of the worker, as functions that take an open transaction or connection.

`Database.run` opens a transaction, commits it, and publishes its events; `Database.read` opens a
connection that only reads. The functions themselves never commit. Each transition is one guarded
statement: if no row moves, the caller's knowledge is outdated, and it does nothing.

- Schema: `tables`, `views` and `comments`; `column_types` and `sql_functions`; `migrate`,
  `schema_version` and `scripts`.
- Connections: `database`. Typed rows and many rows: `rows`, `bulk`.
- Transitions of batches: `leases` (claims), `planning`, `submission`, `polling`, `batch_items`.
- Transitions of jobs: `job_insert`, `job_completion`, `job_commands`, `expired_rows`.
- What holds work back: `gates`, `pauses`, `concurrency_limit`. The remote's list: `list_watch`.
- Webhooks: `webhook_deliveries`.
- Reading: `job_queries`, `batch_queries`, `gateway_queries`, `metric_queries`, `trace_queries`.
"""
