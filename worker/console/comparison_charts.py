"""Draw how two jobs differ, as SVG with classes instead of styles."""

from __future__ import annotations

from markupsafe import Markup

from worker.domain.comparison import Comparison
from worker.domain.intervals import Interval
from worker.domain.number_format import difference_text, interval_text

CENTRE = 100  # of a line that is 200 wide
REACH = 96  # from the centre to either end


def largest_reach(found: list[Comparison]) -> float:
    """Return the largest distance from 0 that any interval or difference has, for one scale."""
    ends = [abs(one.scores.mean_difference) for one in found]
    for one in found:
        if isinstance(one.interval, Interval):
            ends += [abs(one.interval.low), abs(one.interval.high)]
    return max(ends, default=0.0) or 1.0


def difference_line(one: Comparison, reach: float) -> Markup:
    """Draw the mean difference as a dot, its interval as a line, and where no difference is."""

    def x(value: float) -> float:
        return CENTRE + REACH * value / reach

    difference = one.scores.mean_difference
    name = difference_text(difference)
    line = Markup("")
    if isinstance(one.interval, Interval):
        name += f", 95 % interval {interval_text(one.interval, signed=True)}"
        line = Markup('<line class="interval" x1="{:.1f}" y1="10" x2="{:.1f}" y2="10"/>').format(
            x(one.interval.low), x(one.interval.high)
        )
    return Markup(
        '<svg class="difference-line" viewBox="0 0 200 20" role="img" aria-label="{}">'
        '<line class="zero" x1="{}" y1="0" x2="{}" y2="20"/>{}'
        '<circle class="{}" cx="{:.1f}" cy="10" r="4.5"/></svg>'
    ).format(name, CENTRE, CENTRE, line, _class_of(one), x(difference))


def outcome_bar(one: Comparison) -> Markup:
    """Draw how many pairs are better, the same and worse."""
    scores = one.scores
    parts, start = [], 0.0
    for name, count in (("better", scores.better), ("same", scores.same), ("worse", scores.worse)):
        width = 100 * count / scores.pairs
        parts.append(
            Markup('<rect class="{}" x="{:.2f}" y="0" width="{:.2f}" height="6"/>').format(
                name, start, width
            )
        )
        start += width
    label = f"{scores.better:,} better, {scores.same:,} the same, {scores.worse:,} worse"
    return Markup(
        '<svg class="outcome-bar" viewBox="0 0 100 6" preserveAspectRatio="none" role="img"'
        ' aria-label="{}">{}</svg>'
    ).format(label, Markup("").join(parts))


def _class_of(one: Comparison) -> str:
    return str(one.verdict).replace(" ", "-")
