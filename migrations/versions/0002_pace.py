"""Share the API's capacity between replicas, and keep the cost of a batch constant.

New indexes and vacuum settings keep queries fast, however many inputs wait or have ended. A gate
also records when a request was last refused.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

WORDS = {
    "postgresql": {"time": "timestamptz", "double": "double precision"},
    "sqlite": {"time": "TEXT", "double": "DOUBLE"},
}

PACE = """
CREATE TABLE eval_pace (
    scope TEXT NOT NULL PRIMARY KEY,
    watch_due_at {time},
    in_flight_limit {double},
    limited_at {time}
)
"""


# With cancelled items, because a batch that is about to be sent reads both.
IN_FLIGHT = """
CREATE INDEX eval_items_in_flight ON eval_items (batch_id, batch_index)
    WHERE status IN ('processing', 'cancelled') AND batch_id IS NOT NULL
"""
# Unique, as the id is, so that SQLite needs no sort.
DUE = """
CREATE {unique}INDEX eval_jobs_due ON eval_jobs (lane, priority DESC, id) WHERE due_at IS NOT NULL
"""
# In these large tables rows change often. By default a fifth of a table may be dead rows, which
# each search for live ones would have to skip.
VACUUM = """
ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05)
"""
HOT_TABLES = ("eval_jobs", "eval_items", "eval_batches")

REFUSED = "ALTER TABLE eval_gates ADD COLUMN refused_at {time}"


def upgrade() -> None:
    words = WORDS[op.get_context().dialect.name]
    op.execute(PACE.format(**words))
    op.execute(REFUSED.format(**words))
    op.execute("UPDATE eval_gates SET refused_at = closed_at")
    op.execute("DROP INDEX eval_items_in_flight")
    op.execute(IN_FLIGHT)
    op.execute("DROP INDEX eval_jobs_due")
    op.execute(DUE.format(unique="UNIQUE "))
    if op.get_context().dialect.name == "postgresql":
        for table in HOT_TABLES:
            op.execute(VACUUM.format(table=table))


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        for table in HOT_TABLES:
            op.execute(
                f"ALTER TABLE {table} RESET (autovacuum_vacuum_scale_factor,"
                " autovacuum_vacuum_threshold, autovacuum_analyze_scale_factor)"
            )
    op.execute("DROP INDEX eval_jobs_due")
    op.execute(DUE.format(unique=""))
    op.execute("DROP INDEX eval_items_in_flight")
    op.execute(
        "CREATE INDEX eval_items_in_flight ON eval_items (batch_id) WHERE status = 'processing'"
    )
    op.execute("ALTER TABLE eval_gates DROP COLUMN refused_at")
    op.execute("DROP TABLE eval_pace")
