"""Results as files: the same rows in each format, a piece at a time, whole or not at all."""

from __future__ import annotations

import csv
import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker import enqueue, export
from worker.admin import Admin
from worker.errors import EvalWorkerError, UnknownJob
from worker.export import Format, write_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from uuid import UUID

    from worker.store.database import Database
    from worker.store.job_queries import ItemResult


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI())


@pytest.fixture
def admin(database_url: str) -> Iterator[Admin]:
    with Admin(database_url) as opened:
        yield opened


@pytest.fixture
def job_id(replica: ManualReplica) -> UUID:
    job_id = replica.enqueue(["a", "fail", 'ccc, "quoted"\nand more', "ädd"])
    replica.finish()
    return job_id


def test_every_format_has_every_result(admin: Admin, job_id: UUID, tmp_path: Path) -> None:
    seen: list[int] = []
    for form in Format:
        admin.export(job_id, tmp_path / f"results.{form}", form, on_progress=seen.append)
    assert seen == [1, 2, 3, 4] * 3
    text = (tmp_path / "results.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["status"] for line in lines] == ["completed", "failed", "completed", "completed"]
    assert lines[2]["scores"][0]["justification"] == lines[2]["request"]
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = pq.read_table(tmp_path / "results.parquet").to_pylist()
    for name in ("job_id", "request", "status", "error", "evaluator_name", "batch_id"):
        shown = [row[name] or None for row in rows]
        assert (
            shown
            == [row[name] for row in table]
            == [line.get(name, s) for line, s in zip(lines, shown, strict=True)]
        )
    assert [row["score"] for row in table] == [0.01, None, 0.22, 0.03]
    times = [row["finished_at"] for row in rows]
    assert times == [line["finished_at"] for line in lines]
    assert [datetime.fromisoformat(time) for time in times] == [row["finished_at"] for row in table]
    assert [row["attempts"] for row in table] == [1, 3, 1, 1]


def test_metadata_of_inputs_joins_results_back_to_their_origin_and_is_never_sent(
    admin: Admin, replica: ManualReplica, tmp_path: Path
) -> None:
    about = {"row": "Q-17", "tags": ["é"]}
    with replica.database.engine.begin() as connection:
        inputs: list[dict[str, Any]] = [{"request": "a", "metadata": about}, {"request": "fail"}]
        job_id = enqueue(connection, judge_id="judge", inputs=inputs)
    replica.finish()
    assert {key for given in replica.remote.inputs() for key in given} == {"request"}
    shown = replica.rows("SELECT metadata FROM eval_scores")[0][0]
    assert (json.loads(shown) if isinstance(shown, str) else shown) == about
    for form in Format:
        admin.export(job_id, tmp_path / f"results.{form}", form)
    lines = [
        json.loads(line)
        for line in (tmp_path / "results.jsonl").read_text("utf-8").split("\n")[:-1]
    ]
    assert [line["metadata"] for line in lines] == [about, None]
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert (json.loads(rows[0]["metadata"]), rows[1]["metadata"]) == (about, "")
    table = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert (json.loads(table[0]["metadata"]), table[1]["metadata"]) == (about, None)


FORMULAS = [
    "=1+1",
    "+1",
    "-1.5",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "  =1",
    "\uff1d1",
    "=cmd|' /C calc'!A0",
]
HARMLESS = ["1-1", "a=b", "", "'=1", "é", "x@y"]


def test_no_text_of_a_file_for_spreadsheets_is_a_formula_and_scores_stay_numbers(
    replica: ManualReplica, admin: Admin, tmp_path: Path
) -> None:
    job_id = replica.enqueue([*FORMULAS, *HARMLESS])
    replica.finish()
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE eval_evaluator_results"
            " SET score = -1.5, evaluator_name = '=1', justification = '@'"
        )
    path = tmp_path / "results.csv"
    admin.export(job_id, path, Format.CSV, for_spreadsheets=True)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["request"] for row in rows] == [*(f"'{text}" for text in FORMULAS), *HARMLESS]
    assert {row["score"] for row in rows} == {"-1.5"}
    assert {(row["evaluator_name"], row["justification"]) for row in rows} == {("'=1", "'@")}
    admin.export(job_id, path, Format.CSV)
    with path.open(encoding="utf-8", newline="") as stream:
        assert [row["request"] for row in csv.DictReader(stream)] == [*FORMULAS, *HARMLESS]


def test_a_new_file_is_its_owners_alone_and_a_replaced_one_keeps_its_mode(
    admin: Admin, job_id: UUID, tmp_path: Path
) -> None:
    for form in Format:
        path = tmp_path / f"results.{form}"
        admin.export(job_id, path, form)
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o640)
        admin.export(job_id, path, form)
        assert path.stat().st_mode & 0o777 == 0o640


def test_parquet_is_written_a_row_group_at_a_time(
    admin: Admin, replica: ManualReplica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MAX_ROWS", 3)
    monkeypatch.setattr(export, "MAX_CHARACTERS", 1000)
    texts = ["q"] * 7 + ["long" * 300] * 2
    job_id = replica.enqueue(texts)
    replica.finish()
    path = tmp_path / "results.parquet"
    admin.export(job_id, path, Format.PARQUET)
    written = pq.ParquetFile(path)
    groups = [written.metadata.row_group(n).num_rows for n in range(written.num_row_groups)]
    assert groups == [3, 3, 2, 1]
    assert written.read(["request"]).column(0).to_pylist() == texts


def test_a_file_that_was_not_finished_is_not_there(
    admin: Admin, job_id: UUID, tmp_path: Path
) -> None:
    path = tmp_path / "results.csv"
    path.write_text("an earlier one")

    def broken() -> Iterator[ItemResult]:
        yield from admin.results(job_id)
        assert (tmp_path / "results.csv.part").exists()
        raise OSError("no space left on device")

    for form in Format:
        with pytest.raises(OSError, match="no space"):
            write_file(broken(), path, form)
    assert [(each.name, each.read_text()) for each in tmp_path.glob("results*")] == [
        ("results.csv", "an earlier one")
    ]
    with pytest.raises(UnknownJob):
        admin.export(uuid4(), path, Format.CSV)
    assert path.read_text() == "an earlier one"


def test_without_pyarrow_the_error_names_the_extra(
    admin: Admin, job_id: UUID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EvalWorkerError, match=r"pip install 'evalworker\[parquet\]'"):
        admin.export(job_id, tmp_path / "results.parquet", Format.PARQUET)
    assert list(tmp_path.glob("results*")) == []
