"""A trace leads from `enqueue` to the recorded result; without tracing there is no span."""

from __future__ import annotations

import gzip
import http.server
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.gateways import client, running_gateway, submit
from tests.support.manual_replica import ManualReplica
from tests.support.processes import environment, evalworker, started
from tests.support.servers import wait_until
from worker import enqueue
from worker.remote import JudgeAPI
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import running_sandbox
from worker.tracing.spans import Tracing

if TYPE_CHECKING:
    from uuid import UUID

    from opentelemetry.trace import Tracer

    from worker.store.database import Database

pytestmark = pytest.mark.one_database("postgres")


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> Tracer:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("test")


class TracedReplica(ManualReplica):
    """Delivers messages as the actors of a traced process do."""

    def __init__(self, database: Database, remote: FakeJudgeAPI, tracer: Tracer) -> None:
        super().__init__(database, remote, max_item_attempts=1)
        self.tracing = Tracing(database, tracer)
        self.tracer = tracer
        self.context.api = JudgeAPI(
            base_url="https://judge.test",
            api_key="key",
            transport=remote.transport(),
            observe=self.tracing.on_api_request,
        )

    def deliver(self) -> None:
        sent, self.sent = self.sent, []
        for name, batch_id in sent:
            with self.tracing.step(name, batch_id):
                self.run_step(name, batch_id)

    def enqueue_in_span(self, *inputs: str) -> tuple[UUID, ReadableSpan]:
        with self.tracer.start_as_current_span("produce") as span:
            job_id = self.enqueue(list(inputs))
        assert isinstance(span, ReadableSpan)
        return job_id, span


@pytest.fixture
def remote() -> FakeJudgeAPI:
    return FakeJudgeAPI()


@pytest.fixture
def replica(database: Database, remote: FakeJudgeAPI, tracer: Tracer) -> TracedReplica:
    return TracedReplica(database, remote, tracer)


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def links_of(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def test_a_jobs_trace_spans_enqueue_submit_poll_and_its_end(
    replica: TracedReplica, remote: FakeJudgeAPI, exporter: InMemorySpanExporter
) -> None:
    job_id, produced = replica.enqueue_in_span("good", "fail")
    context = replica.one("SELECT trace_context FROM eval_jobs")
    assert context.startswith(f"00-{trace_of(produced):032x}-{id_of(produced):016x}-0")
    remote.done = False
    replica.step()
    replica.pass_time()
    replica.step()
    remote.done = True
    replica.finish()
    spans = exporter.get_finished_spans()
    assert {trace_of(span) for span in spans} == {trace_of(produced)}
    (submit,) = named(exporter, "evalworker submit")
    polls = [s for s in named(exporter, "evalworker poll") if s.events or s.links]
    (job,) = named(exporter, "evalworker job")
    for span in (submit, job, *polls):
        assert span.parent is not None
        assert span.parent.span_id == id_of(produced)
    assert [event.name for event in submit.events] == ["batch.submitting", "batch.submitted"]
    (recorded,) = [s for s in polls if any(e.name == "batch.finished" for e in s.events)]
    assert links_of(job) == {id_of(recorded)}
    assert job.attributes is not None
    assert job.attributes["evalworker.job_id"] == str(job_id)
    assert job.attributes["evalworker.judge_id"] == "judge"
    assert job.start_time is not None
    assert produced.start_time is not None
    assert abs(job.start_time - produced.start_time) < 5_000_000_000
    (request,) = named(exporter, "judge API submit")
    assert request.parent is not None
    assert request.parent.span_id == id_of(submit)
    assert request.attributes == {"http.response.status_code": 202}
    assert len(named(exporter, "judge API status")) >= 2


def test_a_batch_links_to_the_traces_of_all_its_jobs(
    replica: TracedReplica, exporter: InMemorySpanExporter
) -> None:
    produced = [replica.enqueue_in_span("a")[1], replica.enqueue_in_span("b")[1]]
    replica.enqueue(["untraced"])
    replica.finish()
    (submit,) = named(exporter, "evalworker submit")
    assert links_of(submit) == {id_of(span) for span in produced}
    assert submit.parent is None
    ends = named(exporter, "evalworker job")
    assert {trace_of(span) for span in ends} == {trace_of(span) for span in produced}
    for end in ends:
        (link,) = end.links
        assert link.context.trace_id != trace_of(end)  # the poll that recorded both


def test_a_failed_job_and_a_request_without_an_answer_are_errors(
    replica: TracedReplica, remote: FakeJudgeAPI, exporter: InMemorySpanExporter
) -> None:
    replica.enqueue_in_span("fail")
    remote.next_answer(remote.accept_and_lose)
    replica.finish()
    (job,) = named(exporter, "evalworker job")
    assert job.status.status_code is StatusCode.ERROR
    assert "cannot judge fail" in (job.status.description or "")
    (request,) = named(exporter, "judge API submit")
    assert request.status.status_code is StatusCode.ERROR
    assert not request.attributes


def test_an_untraced_job_leaves_no_span(
    replica: TracedReplica, exporter: InMemorySpanExporter
) -> None:
    replica.enqueue(["a"])
    replica.enqueue(["b"])
    with replica.database.engine.begin() as connection:  # plain SQL may write any text
        connection.exec_driver_sql("UPDATE eval_jobs SET trace_context = 'nonsense'")
    replica.finish()
    assert exporter.get_finished_spans() == ()


def test_plain_sql_may_name_its_trace(
    replica: TracedReplica, exporter: InMemorySpanExporter
) -> None:
    replica.enqueue(["a"])
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE eval_jobs SET trace_context = '{TRACEPARENT}'")
    replica.finish()
    (job,) = named(exporter, "evalworker job")
    assert trace_of(job) == 0x0AF7651916CD43DD8448EB211C80319C


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(("header", "kept"), [(TRACEPARENT, TRACEPARENT), ("nonsense", None)])
def test_the_gateway_continues_its_callers_trace(
    database: Database, header: str, kept: str | None
) -> None:
    with running_gateway(database) as url, client(url) as caller:
        caller.headers["traceparent"] = header
        assert submit(caller, "question").status_code == 202
    with database.read() as connection:
        context = connection.exec_driver_sql("SELECT trace_context FROM eval_jobs").scalar_one()
    assert context == kept


def test_a_producer_without_tracing_does_not_import_opentelemetry(sqlite_url: str) -> None:
    code = f"""
import sys, sqlalchemy as sa
from worker import enqueue
with sa.create_engine({sqlite_url!r}).begin() as connection:
    enqueue(connection, judge_id="judge", inputs=[{{"request": "q"}}])
    print(connection.exec_driver_sql("SELECT trace_context FROM eval_jobs").all())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["[(None,)]", "[]"]


# --- real processes -----------------------------------------------------------------------------


WITHOUT_OPENTELEMETRY = """
import sys
sys.modules["opentelemetry"] = None
from worker.cli import main
main()
"""


def test_a_worker_works_where_opentelemetry_is_not_set_up(
    database: Database, database_url: str, tracer: Tracer
) -> None:
    with running_sandbox(SandboxOptions(latency=(0.0, 0.1))) as judge:
        put_in_span(database, tracer)
        env = process_environment(database_url, judge.url)
        assert evalworker("run", "--until-drained", env=env).returncode == 0
    assert finished_jobs(database) == 1


def test_a_worker_works_where_opentelemetry_is_not_installed(
    database: Database, database_url: str, tracer: Tracer
) -> None:
    """In an interpreter of its own: what has been imported before could not be hidden."""
    with running_sandbox(SandboxOptions(latency=(0.0, 0.1))) as judge:
        put_in_span(database, tracer)
        env = process_environment(database_url, judge.url)
        program = [sys.executable, "-c", WITHOUT_OPENTELEMETRY, "run", "--until-drained"]
        subprocess.run(program, env=env, timeout=60, check=True)
    assert finished_jobs(database) == 1


def test_a_worker_exports_its_spans_to_the_configured_collector(
    database: Database, database_url: str, tracer: Tracer
) -> None:
    with running_sandbox(SandboxOptions(latency=(0.0, 0.1))) as judge, collector() as (url, bodies):
        trace_id = put_in_span(database, tracer)
        env = process_environment(database_url, judge.url) | {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
        with started("run", "--until-drained", env=env) as process:
            assert process.wait(60) == 0
        wait_until(lambda: any(b"evalworker job" in body for body in bodies))
    everything = b"".join(bodies)
    assert trace_id.to_bytes(16, "big") in everything
    for name in (b"evalworker submit", b"evalworker poll", b"judge API submit"):
        assert name in everything


def process_environment(database_url: str, api_url: str) -> dict[str, str]:
    return environment(
        database_url=database_url,
        api_url=api_url,
        api_key="sandbox-key",
        linger_seconds=0,
        poll_min_seconds=0.1,
    )


def put_in_span(database: Database, tracer: Tracer) -> int:
    """Enqueues a job within a span; returns the id of its trace."""
    with tracer.start_as_current_span("produce") as span, database.engine.begin() as connection:
        enqueue(connection, judge_id="response-checks", inputs=[{"request": "q", "response": "a"}])
    return int(span.get_span_context().trace_id)


def finished_jobs(database: Database) -> int:
    with database.read() as connection:
        found = connection.exec_driver_sql(
            "SELECT count(*) FROM eval_jobs WHERE status = 'completed'"
        )
        return int(found.scalar_one())


class collector:  # noqa: N801 (reads as a function)
    """Takes what an exporter sends by OTLP over HTTP."""

    def __enter__(self) -> tuple[str, list[bytes]]:
        bodies: list[bytes] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                packed = self.headers.get("Content-Encoding") == "gzip"
                bodies.append(gzip.decompress(body) if packed else body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}", bodies

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
