"""A replica whose key is refused leaves the work to the others, while there are others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
import sqlalchemy as sa

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.cli.presentation import obstacles
from worker.remote.api_key import ApiKey
from worker.store import job_queries, replicas
from worker.store.sql_functions import later
from worker.store.tables import replicas as table

if TYPE_CHECKING:
    from pathlib import Path

    from worker.store.database import Database

pytestmark = pytest.mark.one_database("sqlite")


class RemoteWithKeys(FakeJudgeAPI):
    """It takes some keys."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.keys = set(keys)
        self.refused = 0

    def respond(self, request: httpx.Request) -> httpx.Response:
        if request.headers["authorization"].removeprefix("Api-Key ") in self.keys:
            return super().respond(request)
        self.refused += 1
        return httpx.Response(401, json={"detail": "Invalid key.", "code": "x"})


@pytest.fixture
def remote() -> RemoteWithKeys:
    return RemoteWithKeys("good")


def replica_with(
    database: Database, remote: RemoteWithKeys, key: str | ApiKey, holder: str, **policy: Any
) -> ManualReplica:
    replica = ManualReplica(database, remote, api_key=key, holder=holder, **policy)
    replica.heartbeat.turn()
    return replica


def troubled(replica: ManualReplica) -> list[str]:
    with replica.database.read() as connection:
        return [row.holder for row in replicas.list_troubled(connection)]


def closed(replica: ManualReplica) -> list[tuple[str, str]]:
    with replica.database.read() as connection:
        return [(gate.scope, gate.reason) for gate in job_queries.closed_gates(connection)]


def test_a_refused_key_takes_its_replica_out_while_others_work(
    database: Database, remote: RemoteWithKeys
) -> None:
    good = replica_with(database, remote, "good", "good:1")
    bad = replica_with(database, remote, "bad", "bad:2", batch_size=1)
    bad.enqueue(["a", "b", "c"])
    bad.step()
    assert remote.refused == 1  # the other batches were not even tried
    assert closed(bad) == []
    handed_on = [name for name, _ in bad.sent]
    assert handed_on == ["submit", "submit"]
    assert bad.list_watcher.turn() == 1.0
    for name, batch_id in bad.sent:  # as the broker would bring them
        good.run_step(name, batch_id)
    good.pass_time()
    good.finish()
    assert remote.refused == 1
    assert good.one("SELECT completed FROM eval_job_progress") == 3
    assert good.one("SELECT sum(attempts) FROM eval_items") == 3
    assert troubled(bad) == ["bad:2"]
    assert bad.rows("SELECT due_at FROM eval_batches WHERE due_at IS NOT NULL") == []
    bad.sent.clear()
    bad.step()
    assert bad.sent == []  # its dispatcher leaves the work, too


def test_its_message_is_dropped_when_another_replica_has_the_batch(
    database: Database, remote: RemoteWithKeys
) -> None:
    good = replica_with(database, remote, "good", "good:1")
    bad = replica_with(database, remote, "bad", "bad:2", batch_size=1)
    bad.enqueue(["a", "b"])
    bad.step()
    good.pass_time()
    good.step()
    good.deliver()
    bad.deliver()
    assert bad.sent == []


def test_it_tries_again_now_and_then_with_one_request(
    database: Database, remote: RemoteWithKeys
) -> None:
    replica_with(database, remote, "good", "good:1")
    bad = replica_with(database, remote, "bad", "bad:2", batch_size=1)
    now = 0.0
    bad.context.standby._monotonic = lambda: now
    bad.enqueue(["a", "b", "c"])
    bad.step()
    for tries in (2, 3):
        now += 600.0
        bad.pass_time()
        for _ in range(3):
            bad.step()
        assert remote.refused == tries
        bad.heartbeat.turn()
        assert troubled(bad) == ["bad:2"]
    remote.keys.add("bad")
    now += 600.0
    bad.pass_time()
    bad.step()
    bad.heartbeat.turn()
    assert troubled(bad) == []
    bad.pass_time()
    bad.finish()


def test_where_no_replica_has_a_good_key_the_gate_names_a_holder(
    database: Database, remote: RemoteWithKeys
) -> None:
    one = replica_with(database, remote, "bad", "host-1:11:aa")
    two = replica_with(database, remote, "worse", "host-2:22:bb")
    one.enqueue(["a"])
    one.step()
    assert closed(one) == []
    two.pass_time()
    two.step()
    assert closed(two) == [("api", "401 x: Invalid key. (the key of host-2:22:bb)")]
    assert troubled(two) == ["host-1:11:aa", "host-2:22:bb"]
    remote.keys.add("bad")  # as today: the gate's probe finds that out
    one.pass_time()
    one.finish()
    assert closed(one) == []


def test_a_dead_replica_is_not_counted_and_its_row_vanishes(
    database: Database, remote: RemoteWithKeys
) -> None:
    replica_with(database, remote, "good", "dead:1")
    bad = replica_with(database, remote, "bad", "bad:2")
    with database.engine.begin() as connection:
        past = later(sa.literal(-1.0))
        connection.execute(
            sa.update(table).where(table.c.holder == "dead:1").values(expires_at=past)
        )
    bad.enqueue(["a"])
    bad.step()
    assert [scope for scope, _ in closed(bad)] == ["api"]
    bad.heartbeat.turn()
    assert bad.rows("SELECT holder FROM eval_replicas") == [("bad:2",)]
    bad.heartbeat.stop()
    bad.heartbeat.run()
    assert bad.rows("SELECT holder FROM eval_replicas") == []


def test_when_a_key_file_is_replaced_the_work_goes_on_at_once(
    database: Database, remote: RemoteWithKeys, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("old\n")
    replica = replica_with(database, remote, ApiKey(file=file), "host:1")
    replica.enqueue(["a"])
    replica.step()
    assert [scope for scope, _ in closed(replica)] == ["api"]
    file.write_text("good\n")
    replica.heartbeat = type(replica.heartbeat)(replica.context)  # it has not looked lately
    replica.heartbeat.turn()
    (batch_id,) = (replica.one("SELECT id FROM eval_batches WHERE due_at IS NOT NULL"),)
    replica.submit(batch_id)
    replica.deliver()
    assert closed(replica) == []
    assert troubled(replica) == []
    assert remote.posts() == 2


def test_another_replica_can_probe_the_gate_after_one_whose_key_is_refused(
    database: Database, remote: RemoteWithKeys
) -> None:
    bad = replica_with(database, remote, "bad", "bad:2")
    bad.enqueue(["a"])
    bad.step()
    assert [scope for scope, _ in closed(bad)] == ["api"]
    assert not bad.context.standby.stands_by()
    good = replica_with(database, remote, "good", "good:1")
    bad.pass_time()
    bad.step()  # it does not know of the other one yet, and takes the probe
    assert remote.refused == 2
    assert good.one("SELECT probing_until FROM eval_gates") is None
    good.pass_time()
    good.finish()
    assert closed(good) == []


def test_status_names_the_replica_and_what_it_cannot_do(
    database: Database, remote: RemoteWithKeys
) -> None:
    bad = replica_with(database, remote, "bad", "host-2:22:bb")
    database.run(
        lambda tx: replicas.record_alive(
            tx, "host-2:22:bb", key_error="401: no", send_error="OOM command not allowed"
        )
    )
    with bad.database.read() as connection:
        rows = [row._asdict() for row in replicas.list_troubled(connection)]
    key, sends = obstacles(
        {"paused": [], "waiting_for": [], "replicas": rows, "in_doubt": [], "held": []}
    )
    assert key.startswith("key refused: that of replica host-2:22:bb since ")
    assert key.endswith(": 401: no")
    assert sends.startswith("messages cannot be sent: by replica host-2:22:bb since ")
    assert sends.endswith(": OOM command not allowed")
