"""Runs the benchmarks and prints one table, in Markdown: `python -m benchmarks [NAME …]`."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.measure import Figure

NAMES = ("enqueue", "pipeline", "packing")


def main(names: list[str]) -> None:
    print("| figure | measured | target | compared with | beside |")
    print("|---|---|---|---|---|")
    for name in names or NAMES:
        for figure in importlib.import_module(f"benchmarks.{name}").figures():
            print(_row(figure), flush=True)


def _row(figure: Figure) -> str:
    bound = "at most" if figure.at_most else "at least"
    unit = f" {figure.unit}" if figure.unit else ""
    mark = "" if figure.met else " **missed**"
    return (
        f"| {figure.name} | {figure.value:.2f}{unit}{mark} | {bound} {figure.target:g}{unit}"
        f" | {figure.compared_with} | {figure.detail} |"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
