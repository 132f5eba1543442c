"""Refuse the id of a job that is no UUID in lower case, on SQLite, where it is a text.

The worker compares ids as texts there. A job with another id could not be read, and would stop the
planning of all others. A trigger looks at new jobs only; PostgreSQL has a type of its own.
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

UUID = "-".join("[0-9a-f]" * digits for digits in (8, 4, 4, 4, 12))
REFUSAL = "eval_jobs.id must be a UUID in lower case, such as 01932f5e-0000-7000-8000-000000000001"
TRIGGER = f"""
CREATE TRIGGER eval_jobs_id BEFORE INSERT ON eval_jobs WHEN NEW.id NOT GLOB '{UUID}'
BEGIN
    SELECT RAISE(ABORT, '{REFUSAL}');
END
"""


def upgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        op.execute(TRIGGER)


def downgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        op.execute("DROP TRIGGER eval_jobs_id")
