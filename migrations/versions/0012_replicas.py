"""Give each replica a row, so that the others know whether its key is refused."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TIME = {"postgresql": "timestamptz", "sqlite": "TEXT"}

TABLE = """
CREATE TABLE eval_replicas (
    holder TEXT NOT NULL PRIMARY KEY,
    started_at {time} NOT NULL,
    expires_at {time} NOT NULL,
    key_refused_at {time},
    key_error TEXT,
    send_failed_at {time},
    send_error TEXT
)
"""


def upgrade() -> None:
    op.execute(TABLE.format(time=TIME[op.get_context().dialect.name]))


def downgrade() -> None:
    op.execute("DROP TABLE eval_replicas")
