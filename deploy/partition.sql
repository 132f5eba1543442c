-- Partitions eval_items, eval_evaluator_results and eval_events by month, for very large databases.
-- It is optional, and runs once, as the owner of the tables, while no worker runs. It needs
-- PostgreSQL 15 or later:
--
--     psql --single-transaction --set ON_ERROR_STOP=1 --file deploy/partition.sql "$DATABASE"
--
-- The existing tables become the first partitions. No row is copied, but each is read to check its
-- bounds and foreign keys. See docs/partitioning.md.

-- The lowest UUIDv7 of a time. Ids sort by time, so a range of time is a range of ids.
CREATE OR REPLACE FUNCTION eval_uuid7_floor(moment timestamptz) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0')
            || repeat('0', 20))::uuid
$$;

-- Adds the missing partitions of the next months. Run it every month.
CREATE OR REPLACE FUNCTION eval_add_partitions(months integer DEFAULT 12) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    this_month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    month timestamp;
    begins timestamptz;
    ends timestamptz;
    suffix text;
    added integer := 0;
BEGIN
    FOR ahead IN 1 .. months LOOP
        month := this_month + make_interval(months => ahead);
        suffix := to_char(month, '_YYYY_MM');
        CONTINUE WHEN to_regclass('eval_events' || suffix) IS NOT NULL;
        begins := month AT TIME ZONE 'UTC';
        ends := (month + interval '1 month') AT TIME ZONE 'UTC';
        EXECUTE format('CREATE TABLE %I PARTITION OF eval_items FOR VALUES FROM (%L) TO (%L)',
            'eval_items' || suffix, eval_uuid7_floor(begins), eval_uuid7_floor(ends));
        EXECUTE format('CREATE TABLE %I PARTITION OF eval_evaluator_results'
            ' FOR VALUES FROM (%L) TO (%L)',
            'eval_evaluator_results' || suffix, eval_uuid7_floor(begins), eval_uuid7_floor(ends));
        EXECUTE format('CREATE TABLE %I PARTITION OF eval_events FOR VALUES FROM (%L) TO (%L)',
            'eval_events' || suffix, begins, ends);
        added := added + 1;
    END LOOP;
    RETURN added;
END
$$;

-- Drops all months that ended before a day: their jobs with inputs and results, and the history.
-- If one of their jobs has not ended, it raises an error and drops nothing.
CREATE OR REPLACE FUNCTION eval_drop_partitions(before date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    first_kept timestamptz := date_trunc('month', before::timestamp) AT TIME ZONE 'UTC';
    part record;
    blocking uuid;
    dropped integer := 0;
BEGIN
    IF first_kept > now() THEN
        RAISE EXCEPTION 'the month before % is not over', first_kept;
    END IF;
    FOR part IN
        SELECT substr(c.relname, length('eval_events') + 1) AS suffix,
               substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''(.*)''\)')::timestamptz
                   AS ends
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'eval_events'::regclass AND c.relname <> 'eval_events_default'
        ORDER BY ends
    LOOP
        EXIT WHEN part.ends > first_kept;
        EXECUTE format(
            'SELECT id FROM eval_jobs WHERE id IN (SELECT job_id FROM %I)'
            ' AND (finished_at IS NULL OR created_at >= $1) LIMIT 1',
            'eval_items' || part.suffix) INTO blocking USING first_kept;
        IF blocking IS NOT NULL THEN
            RAISE EXCEPTION 'job % has not ended, or is not older than %', blocking, first_kept
                USING HINT = 'Wait for it, cancel it, or keep this month.';
        END IF;
        EXECUTE format('CREATE TEMP TABLE eval_gone ON COMMIT DROP AS'
            ' SELECT DISTINCT job_id FROM %I', 'eval_items' || part.suffix);
        EXECUTE format('DROP TABLE %I', 'eval_evaluator_results' || part.suffix);
        EXECUTE format('ALTER TABLE eval_items DETACH PARTITION %I', 'eval_items' || part.suffix);
        EXECUTE format('DROP TABLE %I', 'eval_items' || part.suffix);
        EXECUTE format('DROP TABLE %I', 'eval_events' || part.suffix);
        DELETE FROM eval_jobs j USING eval_gone g WHERE j.id = g.job_id;
        DROP TABLE eval_gone;
        -- A batch is younger than the jobs of its inputs, so only items in the default partition,
        -- whose ids are not UUIDv7, may still refer to it.
        DELETE FROM eval_batches b
        WHERE b.id < eval_uuid7_floor(part.ends) AND b.finished_at IS NOT NULL
          AND NOT EXISTS (SELECT 1 FROM eval_items_default i WHERE i.batch_id = b.id);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;

DO $$
DECLARE
    tables CONSTANT regclass[] := ARRAY['eval_items', 'eval_evaluator_results', 'eval_events'];
    boundary CONSTANT timestamptz :=
        (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
    bound text;
    name text;
    old regclass;
    kept record;
    last_event bigint;
BEGIN
    LOCK TABLE eval_jobs, eval_items, eval_evaluator_results, eval_events IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT 1 FROM pg_class WHERE oid = ANY (tables) AND relkind <> 'r') THEN
        RAISE EXCEPTION 'the tables are partitioned already';
    END IF;
    IF EXISTS (SELECT 1 FROM pg_trigger
               WHERE tgrelid = ANY (tables) AND NOT tgisinternal AND tgname NOT LIKE 'eval\_%') THEN
        RAISE EXCEPTION 'there are triggers on the tables: drop them first';
    END IF;

    -- These definitions refer to tables by name, so that they apply to the new tables later.
    CREATE TEMP TABLE kept_keys ON COMMIT DROP AS
        SELECT conrelid::regclass::text AS of_table, conname, pg_get_constraintdef(oid) AS says
        FROM pg_constraint
        WHERE contype = 'f' AND (conrelid = ANY (tables) OR confrelid = ANY (tables));
    CREATE TEMP TABLE kept_triggers ON COMMIT DROP AS
        SELECT tgrelid::regclass::text AS of_table, tgname, pg_get_triggerdef(oid) AS says
        FROM pg_trigger WHERE tgrelid = ANY (tables) AND NOT tgisinternal;
    CREATE TEMP TABLE kept_views ON COMMIT DROP AS
        SELECT DISTINCT v.oid::regclass::text AS view, v.relkind, pg_get_viewdef(v.oid) AS says,
               ' WITH (' || array_to_string(v.reloptions, ', ') || ')' AS options
        FROM pg_depend d
        JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
        JOIN pg_class v ON v.oid = r.ev_class
        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY (tables);
    IF EXISTS (SELECT 1 FROM kept_views WHERE relkind = 'm') THEN
        RAISE EXCEPTION 'there are materialized views over the tables: drop them first';
    END IF;
    CREATE TEMP TABLE kept_indexes ON COMMIT DROP AS
        SELECT indrelid::regclass::text AS of_table, indexrelid::regclass::text AS index,
               pg_get_indexdef(indexrelid) AS says, indisprimary
        FROM pg_index WHERE indrelid = ANY (tables);
    FOR kept IN SELECT * FROM kept_keys LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', kept.of_table, kept.conname);
    END LOOP;
    FOR kept IN SELECT * FROM kept_triggers LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', kept.tgname, kept.of_table);
    END LOOP;
    FOR kept IN SELECT * FROM kept_indexes LOOP
        EXECUTE format('ALTER INDEX %s RENAME TO %I', kept.index, kept.index || '_before');
    END LOOP;
    last_event := pg_sequence_last_value(pg_get_serial_sequence('eval_events', 'id')::regclass);
    ALTER TABLE eval_events ALTER id DROP IDENTITY;
    ALTER TABLE eval_events DROP CONSTRAINT eval_events_pkey_before;

    FOREACH old IN ARRAY tables LOOP
        name := old::text;
        EXECUTE format('ALTER TABLE %I RENAME TO %I', name, name || '_before');
        EXECUTE format('CREATE TABLE %I (LIKE %s INCLUDING ALL EXCLUDING INDEXES) '
            'PARTITION BY RANGE (%I)', name, old,
            CASE name WHEN 'eval_events' THEN 'at' ELSE 'job_id' END);
        EXECUTE format('COMMENT ON TABLE %I IS %L', name, obj_description(old));
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I PRIMARY KEY %s', name, name || '_pkey',
            CASE name WHEN 'eval_items' THEN '(job_id, item_index)'
                      WHEN 'eval_evaluator_results' THEN '(job_id, item_index, position)'
                      ELSE '(id, at)' END);
        FOR kept IN SELECT says FROM kept_indexes WHERE of_table = name AND NOT indisprimary LOOP
            EXECUTE kept.says;
        END LOOP;
        EXECUTE format('CREATE TABLE %I PARTITION OF %I DEFAULT', name || '_default', name);
        IF name = 'eval_events' THEN
            bound := boundary;
        ELSE  -- ids that are not UUIDv7 may be out of bounds
            bound := eval_uuid7_floor(boundary);
            EXECUTE format('WITH moved AS (DELETE FROM %s WHERE job_id >= %L RETURNING *) '
                'INSERT INTO %I SELECT * FROM moved', old, bound, name || '_default');
        END IF;
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %s FOR VALUES FROM (MINVALUE) TO (%L)',
            name, old, bound);
        FOR kept IN
            SELECT privilege_type, is_grantable, r.rolname, NULL AS attname
            FROM pg_class c, aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
            WHERE c.oid = old
            UNION ALL
            SELECT privilege_type, is_grantable, r.rolname, c.attname
            FROM pg_attribute c, aclexplode(c.attacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
            WHERE c.attrelid = old
        LOOP
            EXECUTE format('GRANT %s%s ON %I TO %s%s', kept.privilege_type,
                ' (' || quote_ident(kept.attname) || ')', name,
                coalesce(quote_ident(kept.rolname), 'PUBLIC'),
                CASE WHEN kept.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
        END LOOP;
    END LOOP;

    -- A sequence, because partitioned tables have identity columns only since PostgreSQL 17.
    CREATE SEQUENCE eval_events_id_seq OWNED BY eval_events.id;
    PERFORM setval('eval_events_id_seq', coalesce(last_event, 1), last_event IS NOT NULL);
    ALTER TABLE eval_events ALTER id SET DEFAULT nextval('eval_events_id_seq');
    FOR kept IN
        SELECT DISTINCT coalesce(quote_ident(r.rolname), 'PUBLIC') AS grantee
        FROM pg_class c, aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
        WHERE c.oid = 'eval_events'::regclass AND a.privilege_type = 'INSERT'
    LOOP
        EXECUTE format('GRANT USAGE ON SEQUENCE eval_events_id_seq TO %s', kept.grantee);
    END LOOP;

    FOR kept IN SELECT * FROM kept_views LOOP
        EXECUTE format('CREATE OR REPLACE VIEW %s%s AS %s', kept.view, kept.options, kept.says);
    END LOOP;
    FOR kept IN SELECT * FROM kept_keys ORDER BY of_table DESC LOOP
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s',
            kept.of_table, kept.conname, kept.says);
    END LOOP;
    FOR kept IN SELECT * FROM kept_triggers LOOP
        EXECUTE kept.says;
    END LOOP;
    PERFORM eval_add_partitions();
END
$$;
