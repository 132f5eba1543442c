"""Show a judged text as Markdown, or as the difference from what was expected."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

from worker.console.hostile_text import marked

MAX_PRODUCT = 50_000_000  # of the numbers of parts on both sides: 6 MB, and half a second
_WORDS = re.compile(r"\w+|\s+|[^\w\s]")


@cache
def _markdown() -> MarkdownIt:
    """Build a renderer that passes no HTML through, and loads no image."""
    renderer = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable("table")
    renderer.disable("image")
    renderer.add_render_rule("text", _text)
    renderer.add_render_rule("code_inline", _code)
    for name in ("fence", "code_block"):
        renderer.add_render_rule(name, _block)
    renderer.add_render_rule("link_open", _link)
    renderer.add_render_rule("table_open", _table)
    return renderer


def as_markdown(text: str) -> Markup:
    """Return HTML of a text that may be hostile: its tags, images and scripts are words."""
    return Markup(_markdown().render(text))  # noqa: S704 (every rule escapes)


def difference(expected: str, given: str) -> Markup | None:
    """Return `given` with what was added and removed; None if the texts are too long for it.

    It compares words, or lines where there are too many words.
    """
    for split in (_WORDS.findall, lambda text: text.splitlines(keepends=True)):
        before, after = split(expected), split(given)
        if len(before) * len(after) <= MAX_PRODUCT:
            return _compared(before, after)
    return None


def _compared(before: Sequence[str], after: Sequence[str]) -> Markup:
    parts = []
    start = new_start = 0
    for end, new_end in (*_common_pairs(before, after), (len(before), len(after))):
        for mark, words in (
            (Markup("<del>{}</del>"), before[start:end]),
            (Markup("<ins>{}</ins>"), after[new_start:new_end]),
        ):
            if words:
                parts.append(mark.format(marked("".join(words))))
        parts.append(marked("".join(after[new_end : new_end + 1])))
        start, new_start = end + 1, new_end + 1
    return Markup("").join(parts)


def _common_pairs(before: Sequence[str], after: Sequence[str]) -> list[tuple[int, int]]:
    """Return the positions of a longest common subsequence, in both texts.

    One step for each part of `after` treats all parts of `before` as the bits of a number (Hyyrö,
    "Bit-parallel LCS-length computation revisited", 2004), so that the worst texts take no longer
    than others. A bit is 0 where the subsequence with the parts up to there grows by one.
    """
    positions: dict[str, int] = {}
    for index, part in enumerate(before):
        positions[part] = positions.get(part, 0) | 1 << index
    every = (1 << len(before)) - 1
    rows = [every]
    for part in after:
        row = rows[-1]
        same = row & positions.get(part, 0)
        rows.append((row + same | row - same) & every)
    found = []
    index, new_index = len(before), len(after)
    while index and new_index:
        bit = 1 << index - 1
        if rows[new_index] & bit:
            index -= 1
        elif not rows[new_index - 1] & bit:
            new_index -= 1
        else:
            index, new_index = index - 1, new_index - 1
            found.append((index, new_index))
    return found[::-1]


# Rules return plain strings: the renderer adds them up, and `Markup` would escape all before it.


def _text(_: Any, tokens: Sequence[Any], index: int, *__: Any) -> str:
    return str(marked(tokens[index].content))


def _code(_: Any, tokens: Sequence[Any], index: int, *__: Any) -> str:
    return f"<code>{marked(tokens[index].content)}</code>"


def _block(_: Any, tokens: Sequence[Any], index: int, *__: Any) -> str:
    return f'<pre tabindex="0"><code>{marked(tokens[index].content)}</code></pre>\n'


def _table(*_: Any) -> str:
    return '<table class="written">\n'


def _link(renderer: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    """Links leave the console, so they tell the other side nothing, and look like their target."""
    token = tokens[index]
    token.attrSet("rel", "noreferrer noopener nofollow")
    token.attrSet("title", str(token.attrGet("href")))
    return str(renderer.renderToken(tokens, index, options, env))
