"""Compare the scores of two jobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from worker.cli.context import (
    AsJson,
    check_id_prefix,
    open_admin,
    print_json,
    print_line,
    print_table,
)
from worker.cli.tables import Column
from worker.domain.number_format import NOTHING, difference_text, p_text, score_text
from worker.domain.pair_key import Pairing
from worker.domain.phrases import one_line, quantity, tag_texts

SHOWN_LOSSES = 5
COLUMNS = (
    Column("evaluator"),
    Column("pairs", numeric=True, optional=True),
    Column("A", numeric=True),
    Column("B", numeric=True),
    Column("B - A", numeric=True),
    Column("95 % interval", numeric=True, optional=True),
    Column("better", numeric=True, optional=True),
    Column("same", numeric=True, optional=True),
    Column("worse", numeric=True, optional=True),
    Column("p", numeric=True),
    Column("verdict"),
)
LOSS_COLUMNS = (
    Column("input", numeric=True),
    Column("evaluator"),
    Column("A", numeric=True),
    Column("B", numeric=True),
    Column("B - A", numeric=True),
    Column("request", shrinkable=True),
)


def _check_pairing(text: str) -> str:
    try:
        Pairing.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return text


PairBy = Annotated[
    str,
    typer.Option(
        metavar="KEY",
        callback=_check_pairing,
        help="What makes two inputs a pair: index, request, or metadata:KEY.",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="A name in the inputs' metadata: inputs with the same value belong together.",
    ),
]


def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", callback=check_id_prefix, help="The job to compare with.")
    ],
    second: Annotated[
        str,
        typer.Argument(metavar="B", callback=check_id_prefix, help="The job that may be better."),
    ],
    by: PairBy = "index",
    cluster: Cluster = None,
    as_json: AsJson = False,
) -> None:
    with open_admin() as admin:
        ids = admin.find_job(first), admin.find_job(second)
        found = admin.compare(*ids, by=by, cluster=cluster, changes=SHOWN_LOSSES)
    if as_json:
        print_json(found)
        return
    for line in _head(found):
        print_line(line)
    print_table(COLUMNS, [_row(one) for one in found["evaluators"]])
    for one in found["evaluators"]:
        print_line(f"{one_line(one['evaluator_name'], 60)}: {one['sentence']}")
    if losses := _largest_losses(found):
        print_line("largest losses:")
        print_table(LOSS_COLUMNS, [_loss_row(loss) for loss in losses])
    for note in found["notes"]:
        print_line(f"note: {note}")


def _head(found: dict[str, Any]) -> Iterator[str]:
    for name, job in (("A", found["first"]), ("B", found["second"])):
        names = ", ".join(tag_texts(job["tags"]))
        tags = f", tags {names}" if names else ""
        yield (
            f"{name}  {job['job_id']}  {one_line(job['judge_id'], 60)}{one_line(tags, 60)}, "
            f"{quantity(job['total'], 'input')}, {job['status']}"
        )
    groups = f", grouped by metadata {found['cluster']!r}" if found["cluster"] else ""
    yield f"{quantity(found['pairs'], 'pair')} of inputs by {found['by']}{groups}"


def _row(one: dict[str, Any]) -> list[object]:
    interval = one["without_interval"] and NOTHING
    if interval is None:
        interval = f"{difference_text(one['low'])} to {difference_text(one['high'])}"
    return [
        one["evaluator_name"],
        one["pairs"],
        score_text(one["first_mean"]),
        score_text(one["second_mean"]),
        difference_text(one["difference"]),
        interval,
        *(one[name] for name in ("better", "same", "worse")),
        p_text(one["p"]),
        one["verdict"],
    ]


def _largest_losses(found: dict[str, Any]) -> list[dict[str, Any]]:
    losses = [
        {**loss, "evaluator_name": one["evaluator_name"]}
        for one in found["evaluators"]
        for loss in one["losses"]
    ]
    return sorted(losses, key=lambda loss: float(loss["difference"]))[:SHOWN_LOSSES]


def _loss_row(loss: dict[str, Any]) -> list[object]:
    return [
        loss["second_index"],
        loss["evaluator_name"],
        score_text(loss["first_score"]),
        score_text(loss["second_score"]),
        difference_text(loss["difference"]),
        one_line(loss["request"], 60),
    ]
