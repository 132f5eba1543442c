"""Index the batches on hold, and store the trace context that a job was enqueued with."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX eval_batches_held ON eval_batches (id) WHERE state = 'held'")
    op.execute("ALTER TABLE eval_jobs ADD COLUMN trace_context TEXT")


def downgrade() -> None:
    op.execute("ALTER TABLE eval_jobs DROP COLUMN trace_context")
    op.execute("DROP INDEX eval_batches_held")
