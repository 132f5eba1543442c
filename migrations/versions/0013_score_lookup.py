"""Look up the input of each score by its whole key, also before PostgreSQL knows a job's size."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# With statistics from before a job was loaded, PostgreSQL expects one row of it, and compares each
# of its scores with each of its inputs: 20 s for 4,000 inputs. It does not see through `coalesce`.
# As an outer join, the inputs are not read where no column of them is selected.
LOOKUP = """
LEFT JOIN eval_items i
    ON i.job_id = coalesce(r.job_id, r.job_id) AND i.item_index = r.item_index
"""
JOIN = "JOIN eval_items i ON i.job_id = r.job_id AND i.item_index = r.item_index\n"
VIEW = """
CREATE OR REPLACE VIEW eval_scores AS
SELECT
    r.job_id, r.item_index, j.judge_id,
    coalesce(b.ran_judge_version_id, j.judge_version_id) AS judge_version_id,
    j.tags, r.evaluator_name, r.score, r.justification, r.confidence, i.finished_at, i.metadata
FROM eval_evaluator_results r
JOIN eval_jobs j ON j.id = r.job_id
{items}LEFT JOIN eval_batches b ON b.id = i.batch_id
"""


def upgrade() -> None:
    _replace(LOOKUP)


def downgrade() -> None:
    _replace(JOIN)


def _replace(items: str) -> None:
    if op.get_context().dialect.name == "postgresql":  # SQLite looks up each row in any case
        op.execute(VIEW.format(items=items))
