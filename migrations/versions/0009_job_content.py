"""Record who enqueued a job and what it contains, so that a repeated key can be compared.

Keys of plain SQL are limited as those of `enqueue` are: to 255 characters, and not to begin with
`gateway/`. Triggers do that, because a CHECK would also apply when the worker updates older rows.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

BAD_KEY = """
NEW.owner IS NULL
    AND (length(NEW.idempotency_key) > 255 OR substr(NEW.idempotency_key, 1, 8) = 'gateway/')
"""
TOO_LONG = "idempotency_key is too long: 255 characters are allowed"
RESERVED = "idempotency_key must not begin with gateway/, which is reserved"

SQLITE_TRIGGER = f"""
CREATE TRIGGER eval_jobs_key BEFORE INSERT ON eval_jobs WHEN {BAD_KEY}
BEGIN
    SELECT CASE WHEN length(NEW.idempotency_key) > 255 THEN RAISE(ABORT, '{TOO_LONG}')
        ELSE RAISE(ABORT, '{RESERVED}') END;
END
"""
POSTGRES_TRIGGER = f"""
CREATE FUNCTION eval_refuse_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', CASE WHEN length(NEW.idempotency_key) > 255
        THEN '{TOO_LONG}' ELSE '{RESERVED}' END USING ERRCODE = 'check_violation';
END
$$;
CREATE TRIGGER eval_jobs_key BEFORE INSERT ON eval_jobs
    FOR EACH ROW WHEN ({BAD_KEY}) EXECUTE FUNCTION eval_refuse_key()
"""

# A job of many inputs is inserted before all of them are known. Producers may not update jobs, so
# this runs with the rights of its owner, once for a job, for whoever has the rights of the role
# that inserted it. Its search path is fixed: otherwise a temporary table could take the place of
# eval_jobs.
RECORD_CONTENT = """
CREATE FUNCTION eval_record_content(job uuid, digest text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE eval_jobs SET content_digest = digest
    WHERE id = job AND content_digest IS NULL AND idempotency_key IS NOT NULL
      AND pg_has_role(session_user, enqueued_by, 'MEMBER');
END
$$;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION eval_record_content SET search_path = %I, pg_temp',
        current_schema());
END
$$
"""

# What `enqueue` and eval_enqueue write. A database whose roles are granted goes on to work until
# roles.sql is run again.
GRANT = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'evalworker_producer')
       AND has_any_column_privilege('evalworker_producer', 'eval_jobs', 'INSERT')
    THEN
        GRANT INSERT (content_digest), SELECT (content_digest) ON eval_jobs
            TO evalworker_producer;
        GRANT INSERT (metadata) ON eval_items TO evalworker_producer;
    END IF;
END
$$
"""

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
{declare}BEGIN
    IF inputs IS NULL OR jsonb_typeof(inputs) <> 'array' OR jsonb_array_length(inputs) = 0 THEN
        RAISE EXCEPTION 'eval_enqueue: inputs must be a JSON array of at least one object'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF EXISTS (SELECT 1 FROM jsonb_array_elements(inputs) AS e WHERE jsonb_typeof(e) <> 'object')
    THEN
        RAISE EXCEPTION 'eval_enqueue: every input must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF EXISTS (SELECT 1 FROM jsonb_array_elements(inputs) AS e
               WHERE jsonb_typeof(e -> 'metadata') NOT IN ('object', 'null'))
    THEN
        RAISE EXCEPTION 'eval_enqueue: the metadata of an input must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
{digest}    INSERT INTO eval_jobs AS j
        (judge_id, judge_version_id, tags, idempotency_key, priority, metadata,
         callback_url{column})
    VALUES ($1, $4, coalesce($3, '[]'), $5, coalesce($6, 0), $7, $8{value})
    ON CONFLICT (idempotency_key) DO NOTHING
    RETURNING j.id INTO job;
    IF job IS NULL THEN
        {known}
        RETURN job;
    END IF;
    INSERT INTO eval_items
        (job_id, item_index, request, response, contexts, functions, expected_output,
         extra, metadata)
    SELECT
        job, n - 1, e ->> 'request', e ->> 'response',
        nullif(e -> 'contexts', 'null'), nullif(e -> 'functions', 'null'),
        e ->> 'expected_output',
        nullif(e - '{{request,response,contexts,functions,expected_output,metadata}}'::text[],
               '{{}}'),
        nullif(e -> 'metadata', 'null')
    FROM jsonb_array_elements(inputs) WITH ORDINALITY AS given (e, n);
    RETURN job;
END
$$
"""
BEFORE = {
    "declare": "",
    "digest": "",
    "column": "",
    "value": "",
    "known": "SELECT j.id INTO job FROM eval_jobs j WHERE j.idempotency_key = $5;",
}
# The digests of `enqueue` begin otherwise. Such a job cannot be compared: its id is returned.
AFTER = {
    "declare": "    digest text;\n    known text;\n",
    "digest": """\
    IF idempotency_key IS NOT NULL THEN
        digest := 'sql1:' || encode(sha256(convert_to(
            jsonb_build_array($1, $4, coalesce($3, '[]'), inputs)::text, 'UTF8')), 'hex');
    END IF;
""",
    "column": ", content_digest",
    "value": ", digest",
    "known": """\
SELECT j.id, j.content_digest INTO job, known FROM eval_jobs j WHERE j.idempotency_key = $5;
        IF job IS NULL THEN
            RAISE EXCEPTION 'eval_enqueue: the idempotency_key belongs to a job that this producer '
                'may not see' USING ERRCODE = 'unique_violation';
        END IF;
        IF known LIKE 'sql1:%' AND known <> digest THEN
            RAISE EXCEPTION 'eval_enqueue: the idempotency_key was used for job %, which has '
                'another judge, version, tags or inputs', job USING ERRCODE = 'unique_violation';
        END IF;""",
}


def upgrade() -> None:
    op.execute("ALTER TABLE eval_jobs ADD COLUMN content_digest TEXT")
    op.execute("ALTER TABLE eval_jobs ADD COLUMN enqueued_by TEXT")
    if op.get_context().dialect.name != "postgresql":
        _execute_verbatim(SQLITE_TRIGGER)
        return
    # Set afterwards, so that it does not apply to the jobs that are there.
    op.execute("ALTER TABLE eval_jobs ALTER COLUMN enqueued_by SET DEFAULT current_user")
    for statement in (POSTGRES_TRIGGER, RECORD_CONTENT, GRANT, ENQUEUE.format(**AFTER)):
        _execute_verbatim(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER eval_jobs_key" + _on_jobs())
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION eval_refuse_key()")
        op.execute("DROP FUNCTION eval_record_content(uuid, text)")
        _execute_verbatim(ENQUEUE.format(**BEFORE))
    op.execute("ALTER TABLE eval_jobs DROP COLUMN enqueued_by")
    op.execute("ALTER TABLE eval_jobs DROP COLUMN content_digest")


def _on_jobs() -> str:
    return " ON eval_jobs" if op.get_context().dialect.name == "postgresql" else ""


def _execute_verbatim(statement: str) -> None:
    """Execute a statement in which a colon does not begin a parameter."""
    op.execute(statement.replace(":", r"\:"))
