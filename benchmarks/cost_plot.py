"""Draw cost against size: a cost that grows with the tables shows as a rising line."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.measurement import Figure


def check() -> None:
    """Exit with an error if nothing can be drawn. Call it before anything is measured."""
    if find_spec("matplotlib") is None:
        sys.exit("the plot needs matplotlib: pip install -e '.[bench]'")


def draw(figures: Sequence[Figure], to: Path) -> None:
    """Draw a line for each curve, relative to the cost at its smallest size."""
    from matplotlib.figure import Figure as Page

    page = Page(figsize=(7, 3.6), dpi=90, layout="constrained")
    axes = page.subplots()
    highest = 1.0
    curves = [figure.curve for figure in figures if figure.curve is not None]
    for curve in curves:
        sizes = sorted(curve.costs)
        relative = [curve.costs[size] / curve.costs[sizes[0]] for size in sizes]
        highest = max(highest, *relative)
        axes.plot(sizes, relative, marker="o", label=curve.name)
    axes.axhline(1.0, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="size of the table", ylabel="cost, relative to the smallest size")
    axes.set_ylim(0, 1.25 * highest)
    axes.grid(alpha=0.2)
    if curves:
        axes.legend(fontsize="small", frameon=False)
    to.parent.mkdir(parents=True, exist_ok=True)
    page.savefig(to)
