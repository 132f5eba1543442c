"""Refuse ids and indices of another type on SQLite, where any column takes any value.

The worker compares the ids of jobs as texts there, in lower case. A row with another id, or with an
index that is no number, could not be read, and would stop the planning of all others. Triggers look
at new rows only; PostgreSQL has types of its own.
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

UUID = "-".join("[0-9a-f]" * digits for digits in (8, 4, 4, 4, 12))
REFUSALS = {
    "eval_jobs_id": (
        f"ON eval_jobs WHEN NEW.id NOT GLOB '{UUID}'",
        "eval_jobs.id must be a UUID in lower case, such as 01932f5e-0000-7000-8000-000000000001",
    ),
    "eval_items_index": (
        "ON eval_items WHEN typeof(NEW.item_index) <> 'integer'",
        "eval_items.item_index must be a whole number",
    ),
}


def upgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        for name, (condition, refusal) in REFUSALS.items():
            op.execute(
                f"CREATE TRIGGER {name} BEFORE INSERT {condition}"
                f" BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
            )


def downgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        for name in REFUSALS:
            op.execute(f"DROP TRIGGER {name}")
