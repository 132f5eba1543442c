"""Draw small charts as SVG, with classes instead of styles, as the security policy demands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from worker.console.hostile_text import visible

WIDTH = 240
HEIGHT = 56
GAP = 2


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a histogram: how many, what it stands for, and where it leads, if anywhere."""

    count: int
    label: str
    href: str | None = None


def histogram(bars: Sequence[Bar], title: str) -> Markup:
    """Draw bars side by side; each is a link with its label and count as its name."""
    most = max((bar.count for bar in bars), default=0) or 1
    width = WIDTH / max(len(bars), 1)
    drawn = Markup("").join(
        _bar(bar, x=index * width, width=width - GAP, height=HEIGHT * bar.count / most)
        for index, bar in enumerate(bars)
    )
    return Markup(
        '<svg class="histogram" viewBox="0 0 {} {}" role="group" aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT + 2, visible(title), drawn)


def _bar(bar: Bar, *, x: float, width: float, height: float) -> Markup:
    shown = max(height, 1.5) if bar.count else 0.75
    name = f"{bar.label}: {bar.count:,}"
    rectangle = Markup(
        '<rect class="reach" x="{:.1f}" y="0" width="{:.1f}" height="{}"/>'
        '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
        "<title>{}</title>"
    ).format(x, width, HEIGHT, x, HEIGHT - shown + 1, width, shown, name)
    if bar.href is None:
        return Markup("<g>{}</g>").format(rectangle)
    if not bar.count:
        return rectangle
    return Markup('<a href="{}" aria-label="{}">{}</a>').format(bar.href, name, rectangle)


def progress_bar(completed: int, failed: int, cancelled: int, total: int) -> Markup:
    """Draw how many of the inputs have ended, and how."""
    parts, x = [], 0.0
    for name, count in (("completed", completed), ("failed", failed), ("cancelled", cancelled)):
        width = 100 * count / total if total else 0
        if count:
            parts.append(
                Markup('<rect class="{}" x="{:.2f}" y="0" width="{:.2f}" height="6"/>').format(
                    name, x, max(width, 0.7)
                )
            )
        x += width
    label = f"{completed:,} of {total:,} completed, {failed:,} failed, {cancelled:,} cancelled"
    return Markup(
        '<svg class="progress" viewBox="0 0 100 6" preserveAspectRatio="none" role="img"'
        ' aria-label="{}"><rect class="rest" x="0" y="0" width="100" height="6"/>{}</svg>'
    ).format(label, Markup("").join(parts))


def score_bar(value: float) -> Markup:
    """Draw a score from 0 to 1 as a share of a line; the number stands beside it."""
    return Markup(
        '<svg class="score-bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rest" x="0" y="0" width="100" height="4"/>'
        '<rect class="bar" x="0" y="0" width="{:.1f}" height="4"/></svg>'
    ).format(100 * value)
