"""What producers rely on: their transaction, their keys, and errors that name the place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from worker import InvalidInputs, enqueue
from worker.config import load_settings
from worker.errors import IdempotencyKeyReused
from worker.outbox import CHUNK
from worker.store.engines import create_engine
from worker.store.job_queries import progress_of
from worker.store.tables import items, jobs
from worker.store.views import item_results

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from worker.store.database import Database

QUESTION = {"request": "2 + 2?", "response": "4", "expected_output": "4"}


@pytest.fixture
def producer(database_url: str, database: Database) -> Iterator[sa.Engine]:
    """An engine as a producer would make it: none of our precautions."""
    engine = sa.create_engine(load_settings(database_url=database_url).sqlalchemy_url)
    yield engine
    engine.dispose()


def stored(engine: sa.Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(items).order_by(items.c.item_index)).all())


def test_a_job_is_committed_with_the_producers_transaction(producer: sa.Engine) -> None:
    with producer.begin() as connection:
        job_id = enqueue(
            connection,
            judge_id="judge",
            inputs=[
                QUESTION,
                {
                    "request": "é\u2028“",
                    "contexts": ["a", "b"],
                    "functions": [{"name": "f"}],
                    "turns": [{"role": "user", "content": "hello"}],
                    "user_id": "u1",
                },
            ],
            tags=["b", "a", "b"],
            judge_version_id="version",
            priority=7,
            metadata={"row": 12, "nested": [1, None]},
        )
    first, second = stored(producer)
    assert (first.request, first.response, first.expected_output) == ("2 + 2?", "4", "4")
    assert first.contexts is None
    assert second.request == "é\u2028“"
    assert (second.contexts, second.functions) == (["a", "b"], [{"name": "f"}])
    assert second.extra == {"turns": [{"role": "user", "content": "hello"}], "user_id": "u1"}
    with producer.connect() as connection:
        row = progress_of(connection, job_id)
        job = connection.execute(sa.select(jobs)).one()
    assert (row.status, row.total, row.waiting) == ("pending", 2, 2)
    assert (row.tags, row.metadata) == (["a", "b"], {"row": 12, "nested": [1, None]})
    assert (job.priority, job.judge_version_id) == (7, "version")
    assert job.created_at.tzinfo is not None


def test_metadata_of_inputs_is_stored_with_them_and_shown_by_the_view(producer: sa.Engine) -> None:
    about = {"id": "Q-17", "é": [1, None, {"deep": True}]}
    inputs: list[dict[str, Any]] = [{"request": str(n)} for n in range(1001)]
    inputs[3]["metadata"] = about
    inputs[1000] |= {"metadata": {"last": 1}, "contexts": ["c"], "user_id": "u"}
    with producer.begin() as connection:
        enqueue(connection, judge_id="judge", inputs=inputs)
        enqueue(connection, judge_id="judge", inputs=[{"request": "q", "metadata": None}])
    with producer.connect() as connection:
        shown = connection.execute(
            sa.select(item_results.c.item_index, item_results.c.metadata).where(
                item_results.c.metadata.isnot(None)
            )
        ).all()
    assert sorted(map(tuple, shown)) == [(3, about), (1000, {"last": 1})]
    last = next(row for row in stored(producer) if row.item_index == 1000)
    assert (last.contexts, last.extra) == (["c"], {"user_id": "u"})


def test_a_rolled_back_transaction_leaves_no_trace(producer: sa.Engine) -> None:
    with Session(producer) as session:
        enqueue(session, judge_id="judge", inputs=[QUESTION] * 2500)
        session.rollback()
    assert stored(producer) == []
    with producer.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(jobs)) == 0


def test_the_producers_own_rows_share_the_jobs_fate(producer: sa.Engine) -> None:
    with producer.begin() as connection:
        connection.execute(sa.text("CREATE TABLE orders (id INTEGER)"))
    with pytest.raises(RuntimeError), producer.begin() as connection:  # noqa: PT012
        connection.execute(sa.text("INSERT INTO orders VALUES (1)"))
        enqueue(connection, judge_id="judge", inputs=[QUESTION])
        raise RuntimeError
    with producer.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM orders")) == 0
    assert stored(producer) == []


def test_inputs_are_taken_from_a_generator_in_order(producer: sa.Engine) -> None:
    with producer.begin() as connection:
        enqueue(connection, judge_id="judge", inputs=({"request": str(n)} for n in range(3210)))
    assert [row.request for row in stored(producer)] == [str(n) for n in range(3210)]


KEYED: dict[str, Any] = {
    "judge_id": "judge",
    "inputs": [QUESTION, {"request": "q", "metadata": {"id": 1, "at": [2]}, "contexts": ["c"]}],
    "tags": ["a", "b"],
    "judge_version_id": "v1",
}


def test_the_same_key_again_returns_the_first_job_and_changes_nothing(producer: sa.Engine) -> None:
    again = {
        "inputs": (dict(reversed(value.items())) for value in KEYED["inputs"]),
        "tags": ("b", "a", "a"),
        "priority": 3,
        "metadata": {"attempt": 2},
    }
    with producer.begin() as connection:
        first = enqueue(connection, **KEYED, idempotency_key="k")
        assert enqueue(connection, **KEYED | again, idempotency_key="k") == first
    with producer.begin() as connection:
        assert enqueue(connection, **KEYED, idempotency_key="k") == first
    assert len(stored(producer)) == 2


OTHER_CONTENT: list[dict[str, Any]] = [
    {"judge_id": "other"},
    {"judge_version_id": None},
    {"tags": ["a"]},
    {"inputs": KEYED["inputs"][:1]},
    {"inputs": KEYED["inputs"][::-1]},
    {"inputs": [*KEYED["inputs"], QUESTION]},
    {"inputs": [QUESTION, KEYED["inputs"][1] | {"metadata": {"id": 2}}]},
    {"inputs": [QUESTION, KEYED["inputs"][1] | {"user_id": "u"}]},
]


def test_the_same_key_with_other_content_is_an_error_that_names_the_job(
    producer: sa.Engine,
) -> None:
    with producer.begin() as connection:
        first = enqueue(connection, **KEYED, idempotency_key="k")
        for other in OTHER_CONTENT:
            with pytest.raises(IdempotencyKeyReused, match=f"'k' was used for job {first}, which"):
                enqueue(connection, **KEYED | other, idempotency_key="k")
        enqueue(connection, **KEYED | OTHER_CONTENT[0], idempotency_key="another")  # it is of use
    assert len({row.job_id for row in stored(producer)}) == 2


def test_content_is_compared_in_one_pass_however_many_inputs_there_are(producer: sa.Engine) -> None:
    def inputs(count: int, last: str) -> Iterator[dict[str, str]]:
        yield from ({"request": str(n)} for n in range(count - 1))
        yield {"request": last}

    def put(count: int, last: str) -> UUID:
        with producer.begin() as connection:
            return enqueue(
                connection, judge_id="j", inputs=inputs(count, last), idempotency_key=f"{count}"
            )

    for count in (CHUNK - 1, CHUNK, 2 * CHUNK + 500):
        assert put(count, "last") == put(count, "last")
        with pytest.raises(IdempotencyKeyReused):
            put(count, "another")
        with pytest.raises(InvalidInputs, match=rf"inputs\[{count - 1}\] needs"):
            put(count, "")


def test_a_job_whose_content_was_not_recorded_is_returned_as_before(producer: sa.Engine) -> None:
    """Such are those of plain SQL, and of earlier versions."""
    with producer.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO eval_jobs (judge_id, idempotency_key) VALUES ('j', 'k')"
        )
        first = connection.scalar(sa.select(jobs.c.id))
        assert enqueue(connection, **KEYED, idempotency_key="k") == first


def test_two_transactions_that_enqueue_other_content_under_one_key_do_not_both_pass(
    postgres_url: str,
) -> None:
    engine = sa.create_engine(load_settings(database_url=postgres_url).sqlalchemy_url)
    outcomes: list[object] = []

    def second() -> None:
        try:
            with engine.begin() as connection:
                enqueue(connection, **KEYED | {"judge_id": "other"}, idempotency_key="k")
        except IdempotencyKeyReused as error:
            outcomes.append(error.job_id)

    thread = threading.Thread(target=second)
    with engine.begin() as connection:
        first = enqueue(connection, **KEYED, idempotency_key="k")
        thread.start()
        waiting = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        with engine.connect() as watcher:
            while not watcher.scalar(waiting):
                watcher.rollback()
    thread.join()
    assert outcomes == [first]
    engine.dispose()


def test_every_offence_is_named_with_its_place_and_nothing_is_left(producer: sa.Engine) -> None:
    def inputs() -> Iterator[Any]:
        yield from [QUESTION] * 1500  # the first chunk is written before the offences are met
        yield {"request": 5}
        yield "text"
        yield {"contexts": ["", "x"], "reponse": "typo"}
        yield {"expected_output": "x" * 3_500_001}
        yield {"request": "a\x00b"}
        yield {"response": "\ud800"}

    with producer.begin() as connection:
        with pytest.raises(InvalidInputs) as caught:
            enqueue(connection, judge_id="judge", inputs=inputs())
        connection.execute(sa.text("SELECT 1"))  # the transaction is still of use
    text = str(caught.value)
    assert "inputs[1500].request must be a string, not a number" in text
    assert "inputs[1501] must be an object, not a string" in text
    assert "inputs[1502].contexts[0] must not be empty" in text
    assert "did you mean 'response'?" in text
    assert "inputs[1503].expected_output is too long: 3,500,001 characters" in text
    assert "inputs[1504].request contains a NUL character" in text
    assert "inputs[1505].response contains an unpaired surrogate" in text
    assert stored(producer) == []
    with producer.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(jobs)) == 0


BAD_JOBS: list[tuple[dict[str, Any], str]] = [
    ({"judge_id": ""}, "judge_id must not be empty"),
    ({"judge_id": 5}, "judge_id must be a string"),
    ({"tags": ["a", ""]}, "tags[1] must not be empty"),
    ({"tags": "abc"}, "tags must be a list of strings"),
    ({"tags": [1]}, "tags[0] must be a string"),
    ({"inputs": []}, "inputs is empty"),
    ({"priority": "high"}, "priority must be an integer"),
    ({"priority": 2**40}, "priority must fit in 32 bits"),
    ({"metadata": {"a": object()}}, "metadata.a must be a JSON value, not object"),
    ({"metadata": {"a": "\x00"}}, "metadata.a contains a NUL character"),
    ({"metadata": {"\ud83d": 1}}, "contains an unpaired surrogate"),
    ({"metadata": "text"}, "metadata must be an object (a dict), not a string"),
    ({"inputs": [QUESTION | {"metadata": {"a": math.nan}}]}, "[0].metadata.a is not a finite"),
    ({"idempotency_key": ""}, "idempotency_key must not be empty"),
    ({"idempotency_key": "k" * 256}, "idempotency_key is too long: 256 characters"),
    ({"idempotency_key": 7}, "idempotency_key must be a string"),
    ({"idempotency_key": "a\x00"}, "idempotency_key contains a NUL character"),
    ({"idempotency_key": "gateway/x"}, "idempotency_key must not begin with 'gateway/'"),
    ({"judge_id": "j" * 5000}, "judge_id is too long: 5,000 characters, 255 are allowed"),
    ({"judge_version_id": "v" * 256}, "judge_version_id is too long"),
    ({"tags": None}, "tags must be a list of strings, not null"),
    ({"tags": b"ab"}, "tags must be a list of strings, not bytes"),
    ({"inputs": QUESTION}, "inputs must be a list of objects, not one object: pass [inputs]"),
    ({"inputs": "text"}, "inputs must be a list of objects, not a string"),
    ({"inputs": None}, "inputs must be a list of objects, not null"),
    ({"inputs": Path("x.jsonl")}, "inputs must be a list of objects, not PosixPath"),
]


def test_a_bad_job_is_refused_before_anything_is_written(producer: sa.Engine) -> None:
    for arguments, complaint in BAD_JOBS:
        given = {"judge_id": "judge", "inputs": [QUESTION]} | arguments
        with producer.begin() as connection, pytest.raises(InvalidInputs) as caught:
            enqueue(connection, **given)
        assert complaint in str(caught.value)
    assert stored(producer) == []


def test_plain_sql_is_held_to_the_same_keys(producer: sa.Engine) -> None:
    insert = sa.text("INSERT INTO eval_jobs (judge_id, idempotency_key) VALUES ('j', :key)")
    with producer.begin() as connection:
        connection.execute(insert, {"key": "k" * 255})
    for key, complaint in (("k" * 256, "is too long"), ("gateway/a", "must not begin with")):
        with (
            pytest.raises(sa.exc.IntegrityError, match=f"idempotency_key {complaint}"),
            producer.begin() as connection,
        ):
            connection.execute(insert, {"key": key})


@pytest.mark.parametrize(
    "given",
    ["not-a-uuid", "", "01932F5E-0000-7000-8000-0000000000AA", "01932f5e000070008000000000000001"],
)
def test_plain_sql_cannot_give_a_job_an_id_that_the_worker_would_not_find(
    producer: sa.Engine, given: str
) -> None:
    """PostgreSQL has a type for them, which takes every form of a UUID."""
    insert = f"INSERT INTO eval_jobs (id, judge_id) VALUES ('{given}', 'j')"
    on_postgresql = producer.dialect.name == "postgresql"
    if on_postgresql and given.startswith("0"):
        with producer.begin() as connection:
            connection.exec_driver_sql(insert)
            assert connection.scalar(sa.select(jobs.c.id)) == UUID(given)
        return
    complaint = "invalid input syntax" if on_postgresql else "must be a UUID in lower case"
    with pytest.raises(sa.exc.DBAPIError, match=complaint), producer.begin() as connection:
        connection.exec_driver_sql(insert)


def test_a_scoped_session_enqueues_in_its_own_transaction(producer: sa.Engine) -> None:
    session = scoped_session(sessionmaker(producer))
    enqueue(session, judge_id="judge", inputs=[QUESTION])
    session.rollback()
    assert stored(producer) == []
    enqueue(session, judge_id="judge", inputs=[QUESTION])
    session.commit()
    session.remove()
    assert len(stored(producer)) == 1


def test_what_is_no_session_is_refused_with_what_to_pass_instead(producer: sa.Engine) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as raw, producer.connect() as connection:
        for given, advice in (
            (producer, "with engine.begin() as connection"),
            (sessionmaker(producer), "call it"),
            (Session, "pass an instance"),
            (raw, "insert into eval_jobs and eval_items by SQL"),
            (raw.cursor(), "insert into eval_jobs and eval_items by SQL"),
            (connection.connection.driver_connection, "insert into eval_jobs"),
            (SimpleNamespace(session=scoped_session(sessionmaker())), "pass its `session`"),
            (connection.begin(), "not sqlalchemy.engine.base.RootTransaction"),
            ("postgresql://", "SQLAlchemy, not str"),
            (None, "SQLAlchemy, not NoneType"),
        ):
            with pytest.raises(InvalidInputs) as caught:
                enqueue(cast("Session", given), judge_id="judge", inputs=[QUESTION])
            (offence,) = caught.value.offences
            assert offence.startswith("session_or_connection must be a Session or Connection of")
            assert advice in offence


def test_autocommit_is_refused_however_it_was_set(database_url: str, producer: sa.Engine) -> None:
    url = load_settings(database_url=database_url).sqlalchemy_url
    by_driver = (
        {"autocommit": True} if producer.dialect.name == "postgresql" else {"isolation_level": None}
    )
    autocommit = {"isolation_level": "AUTOCOMMIT"}
    engines = [
        sa.create_engine(url, **autocommit),
        producer.execution_options(**autocommit),
        sa.create_engine(url, connect_args=by_driver),
    ]
    for engine in engines:
        with engine.connect() as connection, pytest.raises(InvalidInputs, match="AUTOCOMMIT mode"):
            enqueue(connection, judge_id="judge", inputs=[QUESTION])
        with Session(engine) as session, pytest.raises(InvalidInputs, match="AUTOCOMMIT mode"):
            enqueue(session, judge_id="judge", inputs=[QUESTION])
        engine.dispose()
    with (
        producer.connect().execution_options(**autocommit) as connection,
        pytest.raises(InvalidInputs, match="AUTOCOMMIT mode"),
    ):
        enqueue(connection, judge_id="judge", inputs=[QUESTION])
    assert stored(producer) == []
    database = create_engine(url)  # on SQLite, its transactions are begun at SQLAlchemy's event
    with database.begin() as connection:
        enqueue(connection, judge_id="judge", inputs=[QUESTION])
    database.dispose()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # aiosqlite's threads, at exit
def test_an_async_session_enqueues_in_its_own_transaction(
    database_url: str, producer: sa.Engine
) -> None:
    async def produce() -> UUID:
        url = load_settings(database_url=database_url).sqlalchemy_url
        if url.get_backend_name() == "sqlite":
            url = url.set(drivername="sqlite+aiosqlite")
        engine = create_async_engine(url)
        async with AsyncSession(engine) as session:
            await enqueue(session, judge_id="judge", inputs=[QUESTION])
            await session.rollback()
            job_id = await enqueue(session, judge_id="judge", inputs=[QUESTION, QUESTION])
            await session.commit()
        async with engine.begin() as connection:
            await enqueue(connection, judge_id="judge", inputs=[QUESTION])
        scoped = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        await enqueue(scoped, judge_id="judge", inputs=[QUESTION], idempotency_key="k")
        await scoped.commit()
        await scoped.remove()
        for given in (engine, async_sessionmaker(engine)):
            with pytest.raises(InvalidInputs, match="must be a Session or Connection"):
                enqueue(given, judge_id="judge", inputs=[QUESTION])  # type: ignore[call-overload]
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            with pytest.raises(InvalidInputs, match="AUTOCOMMIT mode"):
                await enqueue(connection, judge_id="judge", inputs=[QUESTION])
        await engine.dispose()
        return job_id

    job_id = asyncio.run(produce())
    assert len(stored(producer)) == 4
    with producer.connect() as connection:
        assert progress_of(connection, job_id).total == 2


def test_a_producer_loads_nothing_that_it_does_not_need() -> None:
    code = (
        "import sys; from worker import enqueue;"
        "print({'dramatiq', 'httpx', 'typer', 'starlette', 'alembic', 'psycopg', 'sqlalchemy.orm'}"
        " & set(sys.modules) or 'nothing')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "nothing"


def test_plain_sql_enqueues_with_the_contracts_columns_alone(producer: sa.Engine) -> None:
    with producer.begin() as connection:
        job_id = connection.exec_driver_sql(
            "INSERT INTO eval_jobs (judge_id) VALUES ('judge') RETURNING id"
        ).scalar_one()
        connection.exec_driver_sql(
            "INSERT INTO eval_items (job_id, item_index, request, response)"
            f" VALUES ('{job_id}', 0, 'question', 'answer')"
        )
    with producer.connect() as connection:
        job = connection.execute(sa.select(jobs)).one()
        item = connection.execute(sa.select(items)).one()
    assert job.id.version == 7
    assert (job.status, job.tags, job.priority) == ("pending", [], 0)
    assert (item.status, item.attempts) == ("pending", 0)
    assert abs((item.due_at - job.created_at).total_seconds()) < 5


def test_ids_made_by_the_database_are_uuid7_and_differ(producer: sa.Engine) -> None:
    with producer.begin() as connection:
        for _ in range(50):
            connection.exec_driver_sql("INSERT INTO eval_jobs (judge_id) VALUES ('judge')")
        ids = list(connection.scalars(sa.select(jobs.c.id)))
    assert {job_id.version for job_id in ids} == {7}
    assert {job_id.variant for job_id in ids} == {"specified in RFC 4122"}
    assert len(set(ids)) == 50


def test_the_postgresql_function_enqueues_in_one_statement(postgres_url: str) -> None:
    engine = sa.create_engine(load_settings(database_url=postgres_url).sqlalchemy_url)
    inputs = json.dumps(
        [
            {"request": "a", "contexts": ["c"], "user_id": "u", "metadata": {"id": 7}},
            {"response": None, "turns": [], "metadata": None},
        ]
    )
    call = sa.text(
        "SELECT eval_enqueue('judge', CAST(:inputs AS jsonb), '[\"t\"]', idempotency_key => 'k')"
    )
    with engine.begin() as connection:
        first = connection.scalar(call, {"inputs": inputs})
        again = connection.scalar(call, {"inputs": inputs})
        # The digest that the function stored is not one that Python could compare.
        assert enqueue(connection, judge_id="j", inputs=[QUESTION], idempotency_key="k") == first
    assert first == again
    with engine.connect() as connection, pytest.raises(sa.exc.IntegrityError, match="was used for"):
        connection.execute(call, {"inputs": json.dumps([{"request": "other"}])})
    one, two = stored(engine)
    assert (one.request, one.contexts, one.extra) == ("a", ["c"], {"user_id": "u"})
    assert (two.request, two.response, two.extra) == (None, None, {"turns": []})
    assert (one.metadata, two.metadata) == ({"id": 7}, None)
    wrong = 'SELECT eval_enqueue(\'judge\', \'[{"request": "q", "metadata": [1]}]\')'
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="metadata of an"):
        connection.execute(sa.text(wrong))
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="JSON object"):
        connection.execute(sa.text("SELECT eval_enqueue('judge', '[1]')"))
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="at least one"):
        connection.execute(sa.text("SELECT eval_enqueue('judge', '[]')"))
    engine.dispose()
