"""Store metadata of each input, and show it beside results and scores."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

JSON = {"postgresql": "jsonb", "sqlite": "TEXT"}

ITEM_RESULTS = """
CREATE VIEW eval_item_results AS
SELECT
    i.job_id, i.item_index, i.status, i.request, i.response, i.expected_output,
    i.attempts, i.error, i.batch_id, b.remote_batch_id, i.execution_log_id, i.finished_at{metadata}
FROM eval_items i
LEFT JOIN eval_batches b ON b.id = i.batch_id
"""
SCORES = """
CREATE VIEW eval_scores AS
SELECT
    r.job_id, r.item_index, j.judge_id,
    coalesce(b.ran_judge_version_id, j.judge_version_id) AS judge_version_id,
    j.tags, r.evaluator_name, r.score, r.justification, r.confidence, i.finished_at{metadata}
FROM eval_evaluator_results r
JOIN eval_items i ON i.job_id = r.job_id AND i.item_index = r.item_index
JOIN eval_jobs j ON j.id = r.job_id
LEFT JOIN eval_batches b ON b.id = i.batch_id
"""
VIEWS = {"eval_item_results": ITEM_RESULTS, "eval_scores": SCORES}

ENQUEUE = """
CREATE OR REPLACE FUNCTION eval_enqueue(
    judge_id text,
    inputs jsonb,
    tags jsonb DEFAULT '[]',
    judge_version_id text DEFAULT NULL,
    idempotency_key text DEFAULT NULL,
    priority integer DEFAULT 0,
    metadata jsonb DEFAULT NULL,
    callback_url text DEFAULT NULL
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
{check}    INSERT INTO eval_jobs AS j
        (judge_id, judge_version_id, tags, idempotency_key, priority, metadata, callback_url)
    VALUES ($1, $4, coalesce($3, '[]'), $5, coalesce($6, 0), $7, $8)
    ON CONFLICT (idempotency_key) DO NOTHING
    RETURNING j.id INTO job;
    IF job IS NULL THEN
        SELECT j.id INTO job FROM eval_jobs j WHERE j.idempotency_key = $5;
        RETURN job;
    END IF;
    INSERT INTO eval_items
        (job_id, item_index, request, response, contexts, functions, expected_output,
         extra{column})
    SELECT
        job, n - 1, e ->> 'request', e ->> 'response',
        nullif(e -> 'contexts', 'null'), nullif(e -> 'functions', 'null'),
        e ->> 'expected_output',
        nullif(e - '{{request,response,contexts,functions,expected_output{field}}}'::text[],
               '{{}}'){value}
    FROM jsonb_array_elements(inputs) WITH ORDINALITY AS given (e, n);
    RETURN job;
END
$$
"""
CHECK = """\
    IF EXISTS (SELECT 1 FROM jsonb_array_elements(inputs) AS e
               WHERE jsonb_typeof(e -> 'metadata') NOT IN ('object', 'null'))
    THEN
        RAISE EXCEPTION 'eval_enqueue: the metadata of an input must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
"""


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    op.execute(f"ALTER TABLE eval_items ADD COLUMN metadata {JSON[dialect]}")
    for name, statement in VIEWS.items():
        if dialect == "postgresql":  # replaced, so that rights on it stay
            statement = statement.replace("CREATE VIEW", "CREATE OR REPLACE VIEW")
        else:
            op.execute(f"DROP VIEW {name}")
        op.execute(statement.format(metadata=", i.metadata"))
    if dialect == "postgresql":
        _create_enqueue(
            check=CHECK,
            column=", metadata",
            field=",metadata",
            value=",\n        nullif(e -> 'metadata', 'null')",
        )


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        _create_enqueue(check="", column="", field="", value="")
    for name, statement in VIEWS.items():
        op.execute(f"DROP VIEW {name}")
        op.execute(statement.format(metadata=""))
    op.execute("ALTER TABLE eval_items DROP COLUMN metadata")


def _create_enqueue(**words: str) -> None:
    # Otherwise `::text[]` would be a bound parameter.
    op.execute(ENQUEUE.format(**words).replace("::text", r"\:\:text"))
