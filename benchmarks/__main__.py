"""Run the benchmarks, print a table in Markdown, and draw cost against size.

python -m benchmarks                     all of them
python -m benchmarks enqueue memory      only these
python -m benchmarks million             1,000,000 inputs through PostgreSQL, once
python -m benchmarks growth              the size of the database, by table
python -m benchmarks processes           what several processes cost a machine
python -m benchmarks console             the console over 10,000,000 scores
python -m benchmarks peers               the same job by the worker and by other durable queues
python -m benchmarks judge               30,000 evaluations by the judge service
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import cost_plot

if TYPE_CHECKING:
    from benchmarks.measurement import Figure

ALL = (
    *("enqueue", "pipeline", "utilization"),
    *("frugality", "list_watcher", "concurrency_limit"),
    *("large_answers", "backlog", "memory", "restart", "views"),
)
ALONE = ("million", "growth", "processes", "console", "peers", "judge")
IMAGE = Path(__file__).parent.parent / "docs" / "images" / "cost.png"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ALL + ALONE))
    parser.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="share of every size and duration; a small one only shows that all run",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        help=f"image file to draw; by default {IMAGE.name}, if all run at full size",
    )
    given = parser.parse_args()
    if unknown := set(given.names) - {*ALL, *ALONE}:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if not 0 < given.share <= 1:
        parser.error("--share must be greater than 0 and at most 1")
    whole = not given.names and given.share == 1
    image = given.plot or (IMAGE if whole else None)
    if image is not None:
        cost_plot.check()
    figures = _run(given.names or ALL, given.share)
    if image is not None:
        cost_plot.draw(figures, image)


def _run(names: list[str] | tuple[str, ...], share: float) -> list[Figure]:
    print("| figure | measured | target | baseline | details |")
    print("|---|---|---|---|---|", flush=True)
    done: list[Figure] = []
    for name in names:
        for figure in importlib.import_module(f"benchmarks.{name}").figures(share):
            print(_row(figure), flush=True)
            done.append(figure)
    return done


def _row(figure: Figure) -> str:
    bound = "at most" if figure.at_most else "at least"
    unit = f" {figure.unit}" if figure.unit else ""
    mark = "" if figure.met else " **missed**"
    return (
        f"| {figure.name} | {figure.value:.2f}{unit}{mark} | {bound} {figure.target:g}{unit}"
        f" | {figure.compared_with} | {figure.detail} |"
    )


if __name__ == "__main__":
    main()
