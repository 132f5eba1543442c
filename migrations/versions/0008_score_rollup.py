"""Sum up the scores of each ended job, so that pages over many jobs need not read them all.

`evalworker migrate` fills the table after this migration, job by job: see `store.score_rollup`.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

WORDS = {
    "postgresql": {"uuid": "uuid", "json": "jsonb", "double": "double precision"},
    "sqlite": {"uuid": "VARCHAR(36)", "json": "TEXT", "double": "DOUBLE"},
}

# Names come from the API, and may be too long for an index: rows are numbered instead.
TABLE = """
CREATE TABLE eval_job_scores (
    job_id {uuid} NOT NULL,
    position INTEGER NOT NULL,
    evaluator_name TEXT NOT NULL,
    judge_version_id TEXT,
    scored BIGINT NOT NULL,
    unscored BIGINT NOT NULL,
    sum {double},
    sum_of_squares {double},
    least {double},
    most {double},
    bins {json},
    PRIMARY KEY (job_id, position),
    FOREIGN KEY (job_id) REFERENCES eval_jobs (id) ON DELETE CASCADE
)
"""
VIEW = """
CREATE VIEW eval_score_summary AS
SELECT
    s.job_id, j.judge_id, s.judge_version_id, j.tags, s.evaluator_name, s.scored, s.unscored,
    CASE WHEN s.scored > 0 THEN s.sum / s.scored END AS mean,
    s.sum, s.sum_of_squares, s.least, s.most, s.bins, j.finished_at
FROM eval_job_scores s
JOIN eval_jobs j ON j.id = s.job_id
"""


def upgrade() -> None:
    op.execute(TABLE.format(**WORDS[op.get_context().dialect.name]))
    op.execute(VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW eval_score_summary")
    op.execute("DROP TABLE eval_job_scores")
