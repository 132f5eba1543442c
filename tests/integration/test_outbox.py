"""What producers rely on: their transaction, their keys, and errors that name the place."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from worker import InvalidInputs, enqueue
from worker.config import load_settings
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


def test_the_same_key_again_returns_the_first_job_and_changes_nothing(producer: sa.Engine) -> None:
    with producer.begin() as connection:
        first = enqueue(connection, judge_id="judge", inputs=[QUESTION], idempotency_key="k")
    with producer.begin() as connection:
        again = enqueue(
            connection, judge_id="other", inputs=[QUESTION] * 5, idempotency_key="k", priority=3
        )
    assert again == first
    assert len(stored(producer)) == 1


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


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"judge_id": ""}, "judge_id must not be empty"),
        ({"judge_id": 5}, "judge_id must be a string"),
        ({"tags": ["a", ""]}, "tags[1] must not be empty"),
        ({"tags": "abc"}, "tags must be a list of strings"),
        ({"tags": [1]}, "tags[0] must be a string"),
        ({"inputs": []}, "inputs is empty"),
        ({"priority": "high"}, "priority must be an integer"),
        ({"priority": 2**40}, "priority must fit in 32 bits"),
        ({"metadata": {"a": object()}}, "metadata cannot be written as JSON"),
        ({"idempotency_key": ""}, "idempotency_key must not be empty"),
    ],
)
def test_a_bad_job_is_refused_before_anything_is_written(
    producer: sa.Engine, arguments: dict[str, Any], complaint: str
) -> None:
    given = {"judge_id": "judge", "inputs": [QUESTION]} | arguments
    with producer.begin() as connection, pytest.raises(InvalidInputs) as caught:
        enqueue(connection, **given)
    assert complaint in str(caught.value)
    assert stored(producer) == []


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
        await engine.dispose()
        return job_id

    job_id = asyncio.run(produce())
    assert len(stored(producer)) == 3
    with producer.connect() as connection:
        assert progress_of(connection, job_id).total == 2


def test_a_producer_loads_neither_the_broker_nor_the_client() -> None:
    code = (
        "import sys; from worker import enqueue;"
        "print([m for m in ('dramatiq', 'httpx', 'typer', 'starlette', 'alembic', 'psycopg')"
        " if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


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
    assert first == again
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
