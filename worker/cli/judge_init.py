"""Write a judges.toml to start from."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from worker.cli.context import print_line
from worker.errors import NotPossible

FILE = "judges.toml"


def judge_init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder.")] = Path(),
) -> None:
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write((files("worker.judge") / "library" / FILE).read_text("utf-8"))
    except OSError as error:
        if path.exists():
            raise NotPossible(f"{path} is there already; nothing was written") from None
        raise NotPossible(f"cannot write {path}: {error.strerror}; name another folder") from None
    option = "" if folder == Path() else f" --config {path}"
    print_line(f"wrote {path}: name your model in it, then run evalworker judge serve{option}")
