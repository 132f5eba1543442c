"""Define how much a page reads and shows, and find out whether there is more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from worker.console.links import Links

Row = TypeVar("Row")

PAGE_ROWS = 50
MAX_COUNT = 10_000  # counts stop here, and say that there are more


@dataclass(frozen=True, slots=True)
class Neighbours(Generic[Row]):
    """One page of rows, and whether there are others before and after it."""

    rows: Sequence[Row]
    has_before: bool
    has_after: bool

    @classmethod
    def of(cls, found: Sequence[Row], *, goes_back: bool, is_first: bool) -> Neighbours[Row]:
        """Cut what was found with a limit of one more than a page.

        `goes_back`: the rows are those just before the page that was left; `is_first`: nothing
        comes before them unless they were reached by going back.
        """
        more = len(found) > PAGE_ROWS
        if goes_back:
            return cls(found[-PAGE_ROWS:], has_before=more, has_after=True)
        return cls(found[:PAGE_ROWS], has_before=not is_first, has_after=more)

    def links(
        self, links: Links, key: Callable[[Row], object], *, back: str, on: str
    ) -> tuple[str | None, str | None]:
        """Return the addresses of the pages before and after; `back` and `on` name their keys."""
        if not self.rows:
            return None, None
        before = links.here(**{on: None, back: key(self.rows[0])}) if self.has_before else None
        after = links.here(**{back: None, on: key(self.rows[-1])}) if self.has_after else None
        return before, after
