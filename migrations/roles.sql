-- Roles of least privilege for PostgreSQL. Run this file by `evalworker migrate --roles`, or as the owner of the tables
-- by `psql -v ON_ERROR_STOP=1 -1 -f`. It can be repeated, and should be after every migration. It needs CREATEROLE,
-- unless the roles exist already.
--
-- None of these roles can log in: grant them to logins of your own. See docs/roles.md.

DO $$
DECLARE
    role text;
    relation record;
    here text := current_schema();
BEGIN
    PERFORM pg_advisory_xact_lock(1702257004);  -- the lock of the migrations, so that they do not run concurrently
    FOREACH role IN ARRAY ARRAY[
        'evalworker_producer', 'evalworker_reader', 'evalworker_reader_without_texts', 'evalworker_worker'
    ] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- created concurrently, from another database of this server
        END;
        IF NOT has_schema_privilege(role, here, 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', here, role);
        END IF;
    END LOOP;
    FOR relation IN
        SELECT relname, relowner FROM pg_class
        WHERE relnamespace = here::regnamespace AND relname LIKE 'eval\_%' AND relkind IN ('r', 'p', 'v', 'S')
    LOOP
        -- Otherwise PostgreSQL would only warn, and grant nothing.
        IF NOT pg_has_role(relation.relowner, 'USAGE') THEN
            RAISE EXCEPTION 'must be owner of %', relation.relname USING ERRCODE = 'insufficient_privilege';
        END IF;
        -- Revoke what an earlier version granted and this one does not.
        EXECUTE format(
            'REVOKE ALL ON %I.%I FROM evalworker_producer, evalworker_reader,'
            ' evalworker_reader_without_texts, evalworker_worker',
            here, relation.relname);
    END LOOP;
END
$$;

-- Every command of evalworker first checks the version of the schema.
GRANT SELECT ON eval_alembic_version
    TO evalworker_producer, evalworker_reader, evalworker_reader_without_texts, evalworker_worker;

-- Producers insert the columns that are theirs. They can read the ids and keys of their own jobs, which RETURNING and
-- ON CONFLICT need, but no texts, results or states.
GRANT INSERT (id, judge_id, judge_version_id, tags, idempotency_key, priority, metadata, created_at, callback_url,
    trace_context, content_digest),
    SELECT (id, idempotency_key, content_digest, enqueued_by) ON eval_jobs TO evalworker_producer;
GRANT INSERT (job_id, item_index, request, response, contexts, functions, expected_output, extra, metadata)
    ON eval_items TO evalworker_producer;
-- The function runs with the rights of its caller.
GRANT EXECUTE ON FUNCTION eval_enqueue, eval_uuid7, eval_record_content TO evalworker_producer;

-- A producer sees the jobs that were inserted under its own role, and adds inputs to them alone. Jobs of a time before
-- that was recorded can be found by their keys, but get no inputs. Nobody takes the keys that begin with the name of
-- another producer and a slash. Others see what they are granted, as without policies.
ALTER TABLE eval_jobs ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS eval_jobs_of_producers ON eval_jobs;
CREATE POLICY eval_jobs_of_producers ON eval_jobs TO evalworker_producer
    USING (enqueued_by = current_user OR (enqueued_by IS NULL AND owner IS NULL))
    WITH CHECK (enqueued_by = current_user AND CASE WHEN strpos(idempotency_key, '/') > 0 THEN NOT EXISTS (
        SELECT FROM pg_roles WHERE rolname = split_part(idempotency_key, '/', 1) AND rolname <> current_user
            AND pg_has_role(oid, 'evalworker_producer', 'MEMBER')) ELSE true END);
DROP POLICY IF EXISTS eval_jobs_of_workers ON eval_jobs;
CREATE POLICY eval_jobs_of_workers ON eval_jobs TO evalworker_worker USING (true);
DROP POLICY IF EXISTS eval_jobs_of_others ON eval_jobs;
CREATE POLICY eval_jobs_of_others ON eval_jobs USING ((SELECT NOT pg_has_role('evalworker_producer', 'USAGE')));
DROP TRIGGER IF EXISTS eval_items_of_producers ON eval_items;
CREATE TRIGGER eval_items_of_producers AFTER INSERT ON eval_items REFERENCING NEW TABLE AS added FOR EACH STATEMENT
    WHEN (pg_has_role('evalworker_producer', 'USAGE') AND NOT pg_has_role('evalworker_worker', 'USAGE'))
    EXECUTE FUNCTION eval_refuse_foreign_items();

GRANT SELECT ON eval_job_progress, eval_item_results, eval_scores, eval_score_summary, eval_job_notices
    TO evalworker_reader;

-- The same views without texts of producers and judges, and without errors, which quote them.
GRANT SELECT (job_id, judge_id, judge_version_id, tags, metadata, status, total, waiting, in_flight, completed,
    failed, cancelled, created_at, finished_at) ON eval_job_progress TO evalworker_reader_without_texts;
GRANT SELECT (job_id, item_index, status, attempts, batch_id, remote_batch_id, execution_log_id, finished_at,
    metadata)
    ON eval_item_results TO evalworker_reader_without_texts;
GRANT SELECT (job_id, item_index, judge_id, judge_version_id, tags, evaluator_name, score, confidence, finished_at,
    metadata)
    ON eval_scores TO evalworker_reader_without_texts;
GRANT SELECT ON eval_score_summary TO evalworker_reader_without_texts;
GRANT SELECT ON eval_job_notices TO evalworker_reader_without_texts;  -- these errors quote no texts

-- The worker, its gateway and its commands never delete jobs, inputs or batches, and never change the history.
GRANT SELECT, INSERT, UPDATE ON eval_jobs, eval_items, eval_batches, eval_notices, eval_pace TO evalworker_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON eval_gates, eval_pauses, eval_replicas, eval_evaluator_results, eval_job_scores
    TO evalworker_worker;
GRANT SELECT, INSERT ON eval_events TO evalworker_worker;
GRANT USAGE ON SEQUENCE eval_events_id_seq TO evalworker_worker;  -- SQLAlchemy reads the sequence itself
GRANT SELECT ON eval_job_progress, eval_item_results, eval_scores, eval_score_summary, eval_job_notices
    TO evalworker_worker;
GRANT EXECUTE ON FUNCTION eval_enqueue, eval_uuid7, eval_record_content TO evalworker_worker;
