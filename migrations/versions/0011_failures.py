"""Find failed inputs by an index: failures are few, and pages list them over all jobs."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX eval_items_failed ON eval_items (job_id, item_index) WHERE status = 'failed'"
    )


def downgrade() -> None:
    op.execute("DROP INDEX eval_items_failed")
