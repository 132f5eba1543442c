-- Messages over PostgreSQL (EVALWORKER_BROKER_URL): the queue's own tables for the worker's role. Run like
-- roles.sql, in the database that the broker's URL names, once the schema eval_dramatiq is there.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'evalworker_worker') THEN
        CREATE ROLE evalworker_worker NOLOGIN;  -- another server than that of the jobs
    END IF;
END
$$;

GRANT USAGE ON SCHEMA eval_dramatiq TO evalworker_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA eval_dramatiq TO evalworker_worker;
