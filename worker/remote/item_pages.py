"""Read the items of a batch where a server pages them, which no documented one does.

It is done as in the list: `next` stands beside the items, or the items are an object with `results`
and `next`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import httpx

from worker.domain.outcomes import Unavailable
from worker.remote.responses import ApiResponse
from worker.remote.urls import BaseURL


class ItemPage(NamedTuple):
    """The items on one page, and the reference to the next one, as received."""

    items: list[Any]
    next: Any


def read_further_pages(
    first: ApiResponse,
    page_url: httpx.URL,
    base_url: BaseURL,
    get_page: Callable[[httpx.URL], ApiResponse | Unavailable],
) -> ApiResponse | Unavailable:
    """Return the first response with the items of all pages; or a further one that failed.

    A `next` that cannot be followed stays in the body, and says that items are missing. There may
    be any number of pages: the deadline of the caller ends them.
    """
    body = first.body
    page = _item_page(body)
    if page is None or not isinstance(body, dict):
        return first
    items, following = page
    if first.is_documented and not following:
        return first
    seen = {str(page_url)}
    while following:
        url = base_url.follow(page_url, following) if isinstance(following, str) else None
        if url is None or str(url) in seen:
            break
        seen.add(str(url))
        response = get_page(url)
        if isinstance(response, Unavailable):
            return response
        if not response.is_success and response.status != 404:
            return response
        page = _item_page(response.body)
        if page is None:  # a 404 included: it says nothing of the batch
            return Unavailable(response.explain("a page of the items cannot be read"))
        page_url, following = url, page.next
        items = [*items, *page.items]
    merged = {**body, "items": items, "next": following}
    return replace(first, body=merged, is_documented=False)


def _item_page(body: object) -> ItemPage | None:
    if not isinstance(body, dict):
        return None
    items: Any = body.get("items", body.get("results"))
    following: Any = body.get("next")
    if isinstance(items, dict):
        items, following = items.get("results"), items.get("next") or following
    if not isinstance(items, list):
        return None
    return ItemPage(items, following)
