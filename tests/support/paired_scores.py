"""Sum up pairs of scores in Python, as the store does in SQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from worker.domain.clusters import EQUAL, GroupedSums
from worker.domain.comparison import PairedScores


def paired_scores(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable] | None = None
) -> PairedScores:
    differences = [b - a for a, b in zip(first, second, strict=True)]
    members: dict[Hashable, list[float]] = defaultdict(list)
    for key, difference in zip(groups or range(len(differences)), differences, strict=True):
        members[key].append(difference)
    sums = [(sum(group), len(group)) for group in members.values()]
    return PairedScores(
        "evaluator",
        first_total=sum(first),
        second_total=sum(second),
        better=sum(d > EQUAL for d in differences),
        worse=sum(d < -EQUAL for d in differences),
        groups_better=sum(s > EQUAL for s, _ in sums),
        groups_worse=sum(s < -EQUAL for s, _ in sums),
        differences=GroupedSums(
            size=len(differences),
            total=sum(differences),
            least=min(differences),
            most=max(differences),
            groups=len(sums),
            squares=sum(s * s for s, _ in sums),
            products=sum(s * n for s, n in sums),
            sizes=sum(n * n for _, n in sums),
        ),
    )
