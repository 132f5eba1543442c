"""Killed between any two effects: every input ends once, and nothing is billed twice."""

from __future__ import annotations

import ast
import contextlib
import random
import shutil
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle, product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

import worker
from tests.support.crash_points import BY_CHANCE, PLAIN, SCENARIOS, UNPLACED
from tests.support.killed_process import COMPANIONS, OF_THE_PROCESS, WorkerProcess
from tests.support.processes import account, environment
from tests.support.servers import AMQP, delete_amqp_queues, rabbitmq_answers
from tests.support.shared_servers import POSTGRES_TEMPLATE
from tests.support.webhook_receiver import SECRET, WebhookReceiver, answer_with, running_receiver
from worker.config import load_settings
from worker.domain.lifecycle import NoticeState
from worker.outbox import enqueue
from worker.sandbox.server import running_sandbox
from worker.store.batch_commands import resolve
from worker.store.database import Database
from worker.store.job_queries import held_batches
from worker.store.tables import batches, evaluator_results, events, items, jobs, notices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.support.crash_points import Change, ExpectedEnd, Scenario
    from tests.support.servers import PostgresServer, ValkeyServer
    from worker.sandbox.server import RunningSandbox

POINTS = {point: name for name, scenario in SCENARIOS.items() for point in scenario.points}
WORKER = Path(worker.__file__).parent
MAX_PARALLEL = 16  # runs; nearly all of their time they wait
LIFE_SECONDS = 500.0  # on a machine that is busy with something else
_JOB_ENDS = ("job.completed", "job.failed", "job.cancelled")


@dataclass(frozen=True)
class Grounds:
    """Where runs take place: each in a database and a namespace of its own."""

    home: Path
    sqlite_template: Path
    postgres: PostgresServer
    valkey: ValkeyServer

    @property
    def stacks(self) -> Sequence[str]:
        found = ["sqlite-memory", "postgres-redis", "postgres-postgres"]
        return [*found, "postgres-amqp"] if rabbitmq_answers() else found

    @contextlib.contextmanager
    def stack(self, name: str) -> Iterator[dict[str, str]]:
        """The settings of a fresh database and broker."""
        database, _, broker = name.partition("-")
        with (
            self._database(database) as database_url,
            self._broker(broker, database_url) as broker_url,
        ):
            yield {"database_url": database_url, "broker_url": broker_url}

    @contextlib.contextmanager
    def _database(self, kind: str) -> Iterator[str]:
        if kind == "postgres":
            with self.postgres.database(POSTGRES_TEMPLATE) as url:
                yield url
            return
        file = self.home / f"{uuid.uuid4().hex}.db"
        shutil.copyfile(self.sqlite_template, file)
        yield f"sqlite:///{file}"

    @contextlib.contextmanager
    def _broker(self, kind: str, database_url: str) -> Iterator[str]:
        namespace = f"test-{uuid.uuid4().hex[:12]}"
        if kind == "amqp":
            try:
                yield f"{AMQP}?namespace={namespace}"
            finally:
                delete_amqp_queues(namespace)
        elif kind == "postgres":
            yield database_url
        else:
            yield "memory://" if kind == "memory" else self.valkey.url(namespace)


@pytest.fixture
def grounds(
    tmp_path: Path, sqlite_url: str, postgres: PostgresServer, valkey: ValkeyServer
) -> Grounds:
    template = Path(sqlite_url.removeprefix("sqlite:///"))
    return Grounds(tmp_path, template, postgres, valkey)


class Run:
    """One scenario on one stack, and the processes that live and die in it."""

    def __init__(self, grounds: Grounds, scenario: Scenario, *, hurried: bool) -> None:
        self.scenario = scenario
        self.hurried = hurried
        self.home = grounds.home / uuid.uuid4().hex
        self.home.mkdir()
        self.log = self.home / "log"
        self.reached = self.home / "reached"
        self.ledger = self.home / "ledger.db"

    def on(self, stack: Mapping[str, str], *, dies: str) -> None:
        """A process dies at this place, and another one does what is left to do."""
        self.stack = stack
        expected = self.scenario.notice
        with running_receiver() if expected else contextlib.nullcontext() as receiver:
            if receiver and expected is NoticeState.WAITING:
                receiver.always = answer_with(500)
            self.live_and_die(dies, receiver.url if receiver else None)
            if receiver:
                self.check_notice(receiver)

    def check_notice(self, receiver: WebhookReceiver) -> None:
        """There is one, whatever died: sent once or more, but under its own id."""
        with self.database() as database, database.read() as connection:
            (notice,) = connection.execute(sa.select(notices)).all()
        assert notice.state == self.scenario.notice, f"the notice is {notice.state}"
        forbidden = self.scenario.notice is NoticeState.FAILED
        assert set(receiver.ids) == (set() if forbidden else {str(notice.id)})

    def live_and_die(self, dies: str, callback_url: str | None) -> None:
        scenario = self.scenario
        with self.database() as database, database.engine.begin() as connection:
            enqueue(
                connection,
                judge_id=scenario.judge,
                inputs=scenario.inputs,
                callback_url=callback_url,
            )
        if scenario.killed_at is not None:
            with running_sandbox(PLAIN, state=self.ledger) as judge:
                self.live(judge, dies=scenario.killed_at)
        self.change(scenario.prepare)
        with running_sandbox(scenario.options, state=self.ledger) as judge:
            self.live(judge, dies=dies)
        self.change(scenario.relieve)
        options = scenario.afterwards or scenario.options
        with running_sandbox(options, state=self.ledger) as judge:
            self.end(judge)

    def live(self, judge: RunningSandbox, *, dies: str | None) -> None:
        """A process that must die at this place, or else live to its end."""
        settings: dict[str, object] = {
            "max_in_flight": 4,
            "linger_seconds": 0,
            "poll_min_seconds": 0.2,
            "lease_seconds": 2 if self.hurried else 5,
            "webhook_secret": SECRET,
            "webhook_allow_private": self.scenario.notice is not NoticeState.FAILED,
            **self.stack,
            **self.scenario.settings,
        }
        env = environment(api_url=judge.url, api_key=judge.api_key, **settings)
        process = WorkerProcess(
            ["run", "--until-drained"], env, self.log, self.reached, dies, self.hurried
        )
        ended = process.run(seconds=LIFE_SECONDS)
        if dies is not None:
            assert ended == -signal.SIGKILL, f"it never came to {dies!r}, and ended with {ended}"
        else:
            assert ended in (0, 1), f"it ended with {ended}"  # 1: a job failed, or a batch is held

    def change(self, change: Change) -> None:
        with self.database() as database:
            database.run(change)

    @contextlib.contextmanager
    def database(self) -> Iterator[Database]:
        url = load_settings(database_url=self.stack["database_url"]).sqlalchemy_url
        with contextlib.closing(Database(url)) as opened:
            yield opened

    def resolve(self) -> int:
        """As `evalworker resolve` does, for each held batch; returns how many there were."""
        with self.database() as database:
            with database.read() as connection:
                held = [batch.id for batch in held_batches(connection)]
            expected = any(effect.endswith(" put_on_hold") for effect in self.scenario.effects)
            assert expected or not held, "a batch is held"
            for batch_id in held:
                database.run(partial(resolve, batch_id=batch_id, resubmit=False))
        return len(held)

    def end(self, judge: RunningSandbox) -> None:
        """Every input ends once, has its results once, and was evaluated as often as it should."""
        self.live(judge, dies=None)
        if self.resolve():
            self.live(judge, dies=None)
        ending = self.scenario.ending
        found = account(judge)
        billed = (found["inputs_evaluated"], found["evaluated_again"])
        with self.database() as database, database.read() as connection:
            doubts = connection.scalar(sa.select(sa.func.sum(batches.c.doubts))) or 0
            # A submission in doubt counts as an attempt, also where it never left.
            spared = ending.again - billed[1]
            assert 0 <= spared <= doubts, f"evaluated, again: {billed}"
            assert billed[0] == ending.evaluated - spared, f"evaluated, again: {billed}"
            _check_ends(connection, ending)
            _check_results(connection, ending)


def _check_ends(connection: sa.Connection, ending: ExpectedEnd) -> None:
    counted = connection.execute(sa.select(items.c.status, sa.func.count()).group_by("status"))
    wanted = {"completed": ending.completed, "failed": ending.failed}
    assert {row.status: row[1] for row in counted} == {k: n for k, n in wanted.items() if n}
    happened = connection.scalars(sa.select(events.c.event)).all()
    (ended,) = connection.scalars(sa.select(jobs.c.status)).all()
    assert [event for event in happened if event in _JOB_ENDS] == [f"job.{ended}"]
    assert happened.count("item.failed") == ending.failed


def _check_results(connection: sa.Connection, ending: ExpectedEnd) -> None:
    finished = connection.scalars(
        sa.select(events.c.detail).where(events.c.event == "batch.finished")
    ).all()
    assert sum(detail["completed"] for detail in finished) == ending.completed
    place = (evaluator_results.c.job_id, evaluator_results.c.item_index)
    of_items = connection.execute(
        sa.select(
            *place,
            sa.func.count().label("results"),
            sa.func.count(evaluator_results.c.evaluator_name.distinct()).label("evaluators"),
        ).group_by(*place)
    ).all()
    assert len(of_items) == ending.completed
    assert all(row.results == row.evaluators for row in of_items)


def killed(grounds: Grounds, stack: str, scenario: str, point: str, *, hurried: bool) -> set[str]:
    """Return the crash points that the processes of the run reached."""
    run = Run(grounds, SCENARIOS[scenario], hurried=hurried)
    try:
        with grounds.stack(stack) as settings:
            run.on(settings, dies=point)
    except Exception as error:
        log = run.log.read_text()[-4000:] if run.log.exists() else ""
        raise AssertionError(f"{point}, {stack}: {type(error).__name__}: {error}\n{log}") from error
    return set(run.reached.read_text().splitlines())


def all_of(runs: Sequence[Callable[[], set[str]]]) -> set[str]:
    """Run many at the same time; return the points that any of them reached, or name failures."""
    reached: set[str] = set()
    failed: list[str] = []
    pool = ThreadPoolExecutor(MAX_PARALLEL)
    try:
        for future in [pool.submit(one) for one in runs]:
            try:
                reached |= future.result()
            except AssertionError as error:
                failed.append(str(error))
    finally:
        pool.shutdown(cancel_futures=True)
    assert not failed, "\n--- ".join([f"{len(failed)} of {len(runs)} failed", *failed])
    return reached


def check_list(reached: set[str]) -> None:
    """What processes reach in all scenarios is the list, no more and no less."""
    assert reached - POINTS.keys() - BY_CHANCE.keys() == set(), (
        "these have no name in crash_points.py"
    )
    assert POINTS.keys() - reached == set(), "nothing reaches these"


def test_each_transition_of_the_pipeline_has_a_crash_point() -> None:
    """One that no scenario reaches would be missing from the list and from the run alike."""
    commits = [point.partition("commit of ")[2] for point in POINTS]
    named = {name for commit in commits for name in commit.split(" and ") if name}
    assert named | UNPLACED.keys() | COMPANIONS | OF_THE_PROCESS == store_calls()


def store_calls() -> set[str]:
    """The functions of the store that get a transaction from the pipeline or the webhooks."""
    called: set[str] = set()
    for file in (*WORKER.glob("pipeline/*.py"), *WORKER.glob("webhooks/*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                called.add(f"{node.value.id}.{node.attr}")
    return {name for module, name in transaction_functions() if f"{module}.{name}" in called}


def transaction_functions() -> Iterator[tuple[str, str]]:
    """Each public function of the store whose first parameter is a transaction, by module."""
    for file in WORKER.glob("store/*.py"):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                first = next(iter(node.args.args), None)
                if first is not None and first.arg == "tx":
                    yield file.stem, node.name


@pytest.mark.timeout(600)
def test_a_process_may_be_killed_at_crash_points_drawn_by_chance(grounds: Grounds) -> None:
    """Kill at one point of each fourth scenario, so that a few runs of the suite kill at all.

    The stacks take turns. The simulation meanwhile crashes at all of these points, without
    processes; all of them with processes are in the long test below.
    """
    chance = random.SystemRandom()
    stacks = chance.sample(grounds.stacks, len(grounds.stacks))
    drawn = chance.sample(sorted(SCENARIOS), len(SCENARIOS) // 4)
    runs = [
        partial(killed, grounds, stack, name, chance.choice(SCENARIOS[name].points), hurried=True)
        for stack, name in zip(cycle(stacks), drawn, strict=False)
    ]
    reached = all_of(runs)
    assert reached - POINTS.keys() - BY_CHANCE.keys() == set(), (
        "these have no name in crash_points.py"
    )


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_process_may_be_killed_at_any_crash_point_on_every_stack(
    grounds: Grounds, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kill at each point on each stack, with the waits as they are."""
    runs = [
        partial(killed, grounds, stack, scenario, point, hurried=False)
        for (point, scenario), stack in product(POINTS.items(), grounds.stacks)
    ]
    check_list(all_of(runs))
    with capsys.disabled():
        print(f" {len(POINTS)} crash points, {len(runs)} runs", end="", flush=True)  # noqa: T201
