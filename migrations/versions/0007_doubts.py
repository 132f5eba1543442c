"""Count submissions in doubt, and remember the server error that a batch was answered with."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TIME = {"postgresql": "timestamptz", "sqlite": "TEXT"}


def upgrade() -> None:
    time = TIME[op.get_context().dialect.name]
    op.execute("ALTER TABLE eval_batches ADD COLUMN doubts INTEGER NOT NULL DEFAULT 0")
    op.execute("ALTER TABLE eval_batches ADD COLUMN server_error TEXT")
    op.execute(f"ALTER TABLE eval_batches ADD COLUMN server_error_at {time}")


def downgrade() -> None:
    for column in ("server_error_at", "server_error", "doubts"):
        op.execute(f"ALTER TABLE eval_batches DROP COLUMN {column}")
