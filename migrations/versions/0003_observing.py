"""What watching needs: held batches are found by an index, however many have ended."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX eval_batches_held ON eval_batches (id) WHERE state = 'held'")


def downgrade() -> None:
    op.execute("DROP INDEX eval_batches_held")
