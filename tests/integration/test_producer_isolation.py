"""A producer neither sees nor changes the jobs of another one, and does not wait for it."""

from __future__ import annotations

import contextlib
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa

from tests.support.database_logins import CALL, JOB, PUT_A_JOB, QUESTION, Logins
from worker import enqueue
from worker.config import load_settings
from worker.errors import IdempotencyKeyReused

RIVALS = "01932f5e-0000-7000-8000-00000000000a"
NOBODYS = "01932f5e-0000-7000-8000-00000000000b"
FOREIGN_INPUT = f"INSERT INTO eval_items (job_id, item_index) VALUES ('{RIVALS}', 7)"


@pytest.fixture(scope="module")
def rivalry(standing: Logins) -> Logins:
    """Another producer has a job with an input, and one that has ended, with keys."""
    standing.run(
        "rival",
        "INSERT INTO eval_jobs (id, judge_id, idempotency_key) VALUES"
        f" ('{RIVALS}', 'judge', 'rivals-key'), ('{RIVALS[:-1]}c', 'judge', 'rivals-other-key');"
        f" INSERT INTO eval_items (job_id, item_index, request) VALUES ('{RIVALS}', 0, 'secret')",
    )
    with psycopg.connect(standing.url, autocommit=True) as owner:
        owner.execute("ANALYZE eval_jobs")
    return standing


LOOKS = [
    "SELECT id FROM eval_jobs WHERE id = '{rivals}'",
    "SELECT id FROM eval_jobs WHERE idempotency_key LIKE 'rivals%'",
    "SELECT most_common_vals, histogram_bounds FROM pg_stats WHERE tablename = 'eval_jobs'",
    "CREATE FUNCTION pg_temp.told(text) RETURNS boolean COST 0.0001 LANGUAGE plpgsql AS"
    " $$ BEGIN ASSERT $1 NOT LIKE 'rivals%', 'seen'; RETURN true; END $$;"
    " SELECT id FROM eval_jobs WHERE pg_temp.told(idempotency_key)",
    "INSERT INTO eval_jobs (judge_id, idempotency_key) VALUES ('j', 'rivals-key')"
    " ON CONFLICT DO NOTHING RETURNING id",
    "INSERT INTO eval_jobs (judge_id) SELECT idempotency_key FROM eval_jobs"
    " WHERE idempotency_key LIKE 'rivals%' RETURNING id",
    "SET ROLE evalworker_producer; SELECT id FROM eval_jobs",
    "SET LOCAL session_replication_role = DEFAULT; SELECT id FROM eval_jobs WHERE id = '{rivals}'",
]


@pytest.mark.parametrize("statement", LOOKS)
def test_a_producer_sees_nothing_of_anothers_jobs(rivalry: Logins, statement: str) -> None:
    with psycopg.connect(rivalry.of("producer")) as connection:
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            cursor = connection.execute(statement.format(rivals=RIVALS).encode())
            while cursor.nextset():
                pass
            if cursor.description:
                assert cursor.fetchall() == []
        connection.rollback()


ATTACKS = {
    FOREIGN_INPUT: "ForeignKeyViolation",
    f"{FOREIGN_INPUT} ON CONFLICT DO NOTHING": "ForeignKeyViolation",
    f"INSERT INTO eval_items (job_id, item_index) SELECT '{RIVALS}', generate_series(5, 9)":
        "ForeignKeyViolation",
    f"WITH own AS ({PUT_A_JOB} RETURNING id) INSERT INTO eval_items (job_id, item_index)"
    f" SELECT id, 0 FROM own UNION ALL SELECT '{RIVALS}', 8": "ForeignKeyViolation",
    "CREATE TEMP TABLE eval_jobs (id uuid, enqueued_by text);"
    f" INSERT INTO eval_jobs VALUES ('{RIVALS}', current_user); {FOREIGN_INPUT}":
        "ForeignKeyViolation",
    "SET search_path = pg_temp, public; CREATE TEMP TABLE eval_jobs (id uuid, enqueued_by text);"
    f" INSERT INTO eval_jobs VALUES ('{RIVALS}', current_user); {FOREIGN_INPUT}":
        "ForeignKeyViolation",
    f"SET CONSTRAINTS ALL DEFERRED; {FOREIGN_INPUT}": "ForeignKeyViolation",
    f"SET row_security = off; {FOREIGN_INPUT}": "InsufficientPrivilege",
    "SET row_security = off; SELECT id FROM eval_jobs": "InsufficientPrivilege",
    "ALTER TABLE eval_items DISABLE TRIGGER USER": "InsufficientPrivilege",
    "SET session_replication_role = replica": "InsufficientPrivilege",
    f"UPDATE eval_jobs SET content_digest = 'x' WHERE id = '{RIVALS}'": "InsufficientPrivilege",
    f"UPDATE eval_items SET request = 'x' WHERE job_id = '{RIVALS}'": "InsufficientPrivilege",
    f"DELETE FROM eval_items WHERE job_id = '{RIVALS}'": "InsufficientPrivilege",
    f"SELECT id FROM eval_jobs WHERE id = '{RIVALS}' FOR KEY SHARE": "InsufficientPrivilege",
    "INSERT INTO eval_jobs (judge_id, idempotency_key) VALUES ('j', 'rivals-key')"
    " ON CONFLICT (idempotency_key) DO UPDATE SET judge_id = 'mine'": "InsufficientPrivilege",
    f"INSERT INTO eval_jobs (id, judge_id) VALUES ('{RIVALS}', 'j')"
    " ON CONFLICT (id) DO UPDATE SET priority = 9": "InsufficientPrivilege",
    "MERGE INTO eval_jobs j USING (VALUES (1)) v ON j.idempotency_key = 'rivals-key'"
    " WHEN MATCHED THEN DELETE": "InsufficientPrivilege",
    "INSERT INTO eval_jobs (judge_id, enqueued_by) VALUES ('j', 'rival')": "InsufficientPrivilege",
    "INSERT INTO eval_jobs (judge_id, idempotency_key) VALUES ('j', 'gateway/team/key/1')":
        "CheckViolation",
    f"{CALL}, idempotency_key => 'gateway/team/key/1')": "CheckViolation",
    f"{CALL}, idempotency_key => 'rivals-key')": "UniqueViolation",
    "INSERT INTO eval_jobs (judge_id, idempotency_key) VALUES ('j', 'RIVAL/17')":
        "InsufficientPrivilege",
    "CREATE TRIGGER mine BEFORE INSERT ON eval_jobs FOR EACH ROW"
    " EXECUTE FUNCTION eval_refuse_key()": "InsufficientPrivilege",
    "LOCK TABLE eval_jobs IN ROW EXCLUSIVE MODE": "InsufficientPrivilege",
    "CREATE POLICY mine ON eval_jobs USING (true)": "InsufficientPrivilege",
    "SET ROLE RIVAL": "InsufficientPrivilege",
}  # fmt: skip


@pytest.mark.parametrize("statement", ATTACKS)
def test_a_producer_changes_nothing_of_anothers_jobs(rivalry: Logins, statement: str) -> None:
    expected = getattr(psycopg.errors, ATTACKS[statement])
    with pytest.raises(expected):
        rivalry.attempt("producer", statement.replace("RIVAL", f"rival_{rivalry.suffix}"))


def test_an_input_for_anothers_job_is_refused_as_if_there_were_no_such_job(rivalry: Logins) -> None:
    def refusal(job: str) -> tuple[object, ...]:
        with pytest.raises(psycopg.errors.ForeignKeyViolation) as caught:
            rivalry.attempt("producer", FOREIGN_INPUT.replace(RIVALS, job))
        told = caught.value.diag
        shown = (told.message_primary, told.message_detail, told.constraint_name, told.table_name)
        return (*shown, told.schema_name, told.message_hint)

    assert refusal(RIVALS) == refusal(NOBODYS)


def test_copy_neither_shows_anothers_job_nor_adds_to_it(rivalry: Logins) -> None:
    with psycopg.connect(rivalry.of("producer")) as connection:
        with connection.cursor().copy("COPY (SELECT id FROM eval_jobs) TO STDOUT") as shown:
            assert list(shown) == []
        with (
            pytest.raises(psycopg.errors.ForeignKeyViolation),
            connection.cursor().copy("COPY eval_items (job_id, item_index) FROM STDIN") as copy,
        ):
            copy.write_row((RIVALS, 9))
        connection.rollback()
        with (
            pytest.raises(psycopg.errors.FeatureNotSupported),
            connection.cursor().copy("COPY eval_jobs (judge_id) FROM STDIN") as copy,
        ):
            copy.write_row(("j",))


def test_the_digest_of_anothers_job_cannot_be_set(rivalry: Logins) -> None:
    rivalry.run("producer", f"SELECT eval_record_content('{RIVALS}', 'py1:forged')")
    assert rivalry.run("rival", "SELECT DISTINCT content_digest FROM eval_jobs") == [(None,)]


def test_a_key_of_another_producer_is_refused_and_the_transaction_stays_of_use(
    rivalry: Logins,
) -> None:
    engine = rivalry.engine("producer")
    with engine.connect() as connection:
        with pytest.raises(IdempotencyKeyReused, match="this producer may not see") as caught:
            enqueue(connection, judge_id="j", inputs=[QUESTION], idempotency_key="rivals-key")
        assert caught.value.job_id is None
        own = f"producer_{rivalry.suffix}/17"  # nobody else could have taken this one
        one = enqueue(connection, judge_id="j", inputs=[QUESTION] * 1001, idempotency_key=own)
        assert (
            enqueue(connection, judge_id="j", inputs=[QUESTION] * 1001, idempotency_key=own) == one
        )
        connection.rollback()
    engine.dispose()


def test_two_logins_that_act_as_one_role_have_the_same_jobs(logins: Logins) -> None:
    service = f"service_{logins.suffix}"
    members = [logins.of(name) for name in ("producer", "rival")]
    with psycopg.connect(logins.url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {service} IN ROLE evalworker_producer".encode())
        for name in ("producer", "rival"):
            owner.execute(f"GRANT {service} TO {name}_{logins.suffix}".encode())
            owner.execute(f"ALTER ROLE {name}_{logins.suffix} SET role = '{service}'".encode())
        found = set()
        for url in members:
            engine = sa.create_engine(load_settings(database_url=url).sqlalchemy_url)
            with engine.begin() as connection:
                inputs = [QUESTION] * 1001
                found.add(enqueue(connection, judge_id="j", inputs=inputs, idempotency_key="k"))
            engine.dispose()
        assert len(found) == 1
        digests = owner.execute("SELECT content_digest FROM eval_jobs WHERE idempotency_key = 'k'")
        assert digests.fetchone() != (None,)
        owner.execute(f"DROP ROLE {service}".encode())


def test_producers_do_not_wait_for_one_another(rivalry: Logins) -> None:
    engines = [rivalry.engine(name) for name in ("producer", "rival")]
    with engines[0].connect() as one, engines[1].connect() as two:
        for connection in (one, two, one, two):
            connection.execute(sa.text("SET LOCAL lock_timeout = '1ms'"))
            enqueue(connection, judge_id="j", inputs=[QUESTION] * 1500)
        one.rollback()
        two.rollback()
    for engine in engines:
        engine.dispose()


def test_jobs_from_before_producers_were_recorded_are_found_by_key_and_get_no_inputs(
    logins: Logins,
) -> None:
    with psycopg.connect(logins.url) as owner:
        owner.execute("UPDATE eval_jobs SET enqueued_by = NULL")
    engine = logins.engine("producer")
    with engine.begin() as connection:
        found = enqueue(connection, judge_id="j", inputs=[QUESTION], idempotency_key="order-17")
    engine.dispose()
    assert str(found) == JOB
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        logins.attempt("producer", FOREIGN_INPUT.replace(RIVALS, JOB))


def test_who_has_rights_without_a_role_of_ours_keeps_them(logins: Logins) -> None:
    name = f"reader_{logins.suffix}"
    with psycopg.connect(logins.url) as owner:
        owner.execute(f"GRANT SELECT (id), INSERT (judge_id) ON eval_jobs TO {name}".encode())
        owner.execute(f"GRANT INSERT (job_id, item_index) ON eval_items TO {name}".encode())
    assert logins.run("reader", "SELECT id FROM eval_jobs") == [(UUID(JOB),)]
    logins.attempt("reader", FOREIGN_INPUT.replace(RIVALS, JOB))
