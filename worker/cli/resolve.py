"""Release a batch on hold."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.context import AsJson, check_id_prefix, open_admin, out, print_json
from worker.domain.lifecycle import BatchState


def resolve(
    batch: Annotated[
        str,
        typer.Argument(
            metavar="BATCH",
            callback=check_id_prefix,
            help="The id of a batch on hold, or its first characters.",
        ),
    ],
    resubmit: Annotated[
        bool,
        typer.Option(
            "--resubmit", help="Have its inputs evaluated again; that may be billed twice."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    with open_admin() as admin:
        batch_id = admin.find_batch(batch)
        state = admin.resolve(batch_id, resubmit=resubmit)
    if as_json:
        print_json({"state": state})
    else:
        out.print(f"batch {batch_id} {_CONTINUATIONS.get(state, f'is {state} again')}")


_CONTINUATIONS = {
    BatchState.LOST: "is given up, and its inputs wait to be submitted again",
    BatchState.REFUSED: "is split in two, as the judge API fails to take it as a whole",
}
