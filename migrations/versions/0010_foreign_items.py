"""Let roles.sql keep producers apart: a function refuses inputs for jobs of other producers.

The trigger that calls it, and the policies, are made by roles.sql, for those who use its roles.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# A trigger for each statement: one for each row would slow down COPY. The error is that of the
# foreign key, so that it does not tell whether such a job exists. The search path is fixed:
# otherwise a temporary table could take the place of eval_jobs.
REFUSE = """
CREATE FUNCTION eval_refuse_foreign_items() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    job uuid;
BEGIN
    FOR job IN SELECT DISTINCT job_id FROM added LOOP
        IF NOT EXISTS (SELECT FROM eval_jobs WHERE id = job AND enqueued_by = current_user) THEN
            RAISE foreign_key_violation USING
                MESSAGE = 'insert or update on table "eval_items" violates foreign key constraint '
                    '"eval_items_job_id_fkey"',
                DETAIL = 'Key is not present in table "eval_jobs".',
                SCHEMA = TG_TABLE_SCHEMA, TABLE = 'eval_items',
                CONSTRAINT = 'eval_items_job_id_fkey';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION eval_refuse_foreign_items SET search_path = %I, pg_temp',
        current_schema());
END
$$
"""
# What roles.sql has made.
DROP = """
DROP POLICY IF EXISTS eval_jobs_of_producers ON eval_jobs;
DROP POLICY IF EXISTS eval_jobs_of_workers ON eval_jobs;
DROP POLICY IF EXISTS eval_jobs_of_others ON eval_jobs;
ALTER TABLE eval_jobs DISABLE ROW LEVEL SECURITY;
DROP FUNCTION eval_refuse_foreign_items() CASCADE
"""


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(REFUSE)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(DROP)
