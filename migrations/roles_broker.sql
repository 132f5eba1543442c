-- Grant the worker's role the tables of a broker on PostgreSQL (EVALWORKER_BROKER_URL). Run it like roles.sql, in
-- the database of the broker's URL, once the schema eval_dramatiq exists.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'evalworker_worker') THEN
        CREATE ROLE evalworker_worker NOLOGIN;  -- the broker is on another server than the jobs
    END IF;
END
$$;

GRANT USAGE ON SCHEMA eval_dramatiq TO evalworker_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA eval_dramatiq TO evalworker_worker;
