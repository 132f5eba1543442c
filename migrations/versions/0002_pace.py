"""The API's pace, as all replicas know it; and when it refused last, beside since when."""

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


REFUSED = "ALTER TABLE eval_gates ADD COLUMN refused_at {time}"


def upgrade() -> None:
    words = WORDS[op.get_context().dialect.name]
    op.execute(PACE.format(**words))
    op.execute(REFUSED.format(**words))
    op.execute("UPDATE eval_gates SET refused_at = closed_at")


def downgrade() -> None:
    op.execute("ALTER TABLE eval_gates DROP COLUMN refused_at")
    op.execute("DROP TABLE eval_pace")
