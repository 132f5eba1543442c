"""Release a batch on hold."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from worker.cli.context import AsJson, open_admin, out, print_json


def resolve(
    batch: Annotated[UUID, typer.Argument(metavar="BATCH", help="The id of a batch on hold.")],
    resubmit: Annotated[
        bool, typer.Option("--resubmit", help="Submit it again; it may be billed twice.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    with open_admin() as admin:
        state = admin.resolve(batch, resubmit=resubmit)
    if as_json:
        print_json({"state": state})
    else:
        out.print(f"batch {batch} is {state} again")
