"""Announce the end of a job by webhooks, and by NOTIFY on PostgreSQL."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

WORDS = {
    "postgresql": {"uuid": "uuid", "json": "jsonb", "time": "timestamptz"},
    "sqlite": {"uuid": "VARCHAR(36)", "json": "TEXT", "time": "TEXT"},
}

TABLE = """
CREATE TABLE eval_notices (
    id {uuid} NOT NULL PRIMARY KEY,
    job_id {uuid} NOT NULL,
    url TEXT NOT NULL,
    payload {json} NOT NULL,
    state TEXT NOT NULL,
    due_at {time},
    epoch INTEGER NOT NULL DEFAULT 0,
    lease_holder TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    nudged_at {time},
    error TEXT,
    created_at {time} NOT NULL,
    finished_at {time},
    FOREIGN KEY (job_id) REFERENCES eval_jobs (id) ON DELETE CASCADE,
    CONSTRAINT eval_notices_state CHECK (state IN ('failed', 'sent', 'waiting')),
    CONSTRAINT eval_notices_due CHECK ((state IN ('waiting')) = (due_at IS NOT NULL))
);
CREATE INDEX eval_notices_live ON eval_notices (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX eval_notices_of_job ON eval_notices (job_id);

CREATE VIEW eval_job_notices AS
SELECT job_id, id AS notice_id, state, attempts, error, created_at, finished_at
FROM eval_notices
"""

# PostgreSQL sends it at the commit; each job is a notification of its own.
ANNOUNCE = """
CREATE FUNCTION eval_announce() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('eval_job_finished', NEW.id::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER eval_jobs_announce AFTER UPDATE OF finished_at ON eval_jobs
    FOR EACH ROW WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL)
    EXECUTE FUNCTION eval_announce()
"""

# As before, with one more argument. The old function is dropped: otherwise there would be two, and
# calls with defaults would be ambiguous.
ENQUEUE = """
CREATE FUNCTION eval_enqueue(
    judge_id text,
    inputs jsonb,
    tags jsonb DEFAULT '[]',
    judge_version_id text DEFAULT NULL,
    idempotency_key text DEFAULT NULL,
    priority integer DEFAULT 0,
    metadata jsonb DEFAULT NULL{argument}
) RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    job uuid;
BEGIN
    IF inputs IS NULL OR jsonb_typeof(inputs) <> 'array' OR jsonb_array_length(inputs) = 0 THEN
        RAISE EXCEPTION 'eval_enqueue: inputs must be a JSON array of at least one object'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF EXISTS (SELECT 1 FROM jsonb_array_elements(inputs) AS e WHERE jsonb_typeof(e) <> 'object')
    THEN
        RAISE EXCEPTION 'eval_enqueue: every input must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO eval_jobs AS j
        (judge_id, judge_version_id, tags, idempotency_key, priority, metadata{column})
    VALUES ($1, $4, coalesce($3, '[]'), $5, coalesce($6, 0), $7{value})
    ON CONFLICT (idempotency_key) DO NOTHING
    RETURNING j.id INTO job;
    IF job IS NULL THEN
        SELECT j.id INTO job FROM eval_jobs j WHERE j.idempotency_key = $5;
        RETURN job;
    END IF;
    INSERT INTO eval_items
        (job_id, item_index, request, response, contexts, functions, expected_output, extra)
    SELECT
        job, n - 1, e ->> 'request', e ->> 'response',
        nullif(e -> 'contexts', 'null'), nullif(e -> 'functions', 'null'),
        e ->> 'expected_output',
        nullif(e - '{{request,response,contexts,functions,expected_output}}'::text[], '{{}}')
    FROM jsonb_array_elements(inputs) WITH ORDINALITY AS given (e, n);
    RETURN job;
END
$$
"""
OLD_ARGUMENTS = "text, jsonb, jsonb, text, text, integer, jsonb"


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    op.execute("ALTER TABLE eval_jobs ADD COLUMN callback_url TEXT")
    for statement in TABLE.format(**WORDS[dialect]).split(";\n"):
        op.execute(statement)
    if dialect == "postgresql":
        op.execute(ANNOUNCE)
        op.execute(f"DROP FUNCTION eval_enqueue({OLD_ARGUMENTS})")
        _create_enqueue(
            argument=",\n    callback_url text DEFAULT NULL", column=", callback_url", value=", $8"
        )


def downgrade() -> None:
    op.execute("DROP VIEW eval_job_notices")
    op.execute("DROP TABLE eval_notices")
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP TRIGGER eval_jobs_announce ON eval_jobs")
        op.execute("DROP FUNCTION eval_announce()")
        op.execute(f"DROP FUNCTION eval_enqueue({OLD_ARGUMENTS}, text)")
        _create_enqueue(argument="", column="", value="")
    op.execute("ALTER TABLE eval_jobs DROP COLUMN callback_url")


def _create_enqueue(**words: str) -> None:
    # Otherwise `::text[]` would be a bound parameter.
    op.execute(ENQUEUE.format(**words).replace("::text", r"\:\:text"))
