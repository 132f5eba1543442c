"""Show a judged text as Markdown, or as the difference from what was expected."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

from worker.console.hostile_text import marked

MAX_PRODUCT = 4_000_000  # of the numbers of parts on both sides: half a second
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
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for change, start, end, new_start, new_end in matcher.get_opcodes():
        removed, added = "".join(before[start:end]), "".join(after[new_start:new_end])
        if change == "equal":
            parts.append(marked(added))
            continue
        if removed:
            parts.append(Markup("<del>{}</del>").format(marked(removed)))
        if added:
            parts.append(Markup("<ins>{}</ins>").format(marked(added)))
    return Markup("").join(parts)


def _text(_: Any, tokens: Sequence[Any], index: int, *__: Any) -> str:
    return marked(tokens[index].content)


def _code(_: Any, tokens: Sequence[Any], index: int, *__: Any) -> str:
    return Markup("<code>{}</code>").format(marked(tokens[index].content))


def _block(_: Any, tokens: Sequence[Any], index: int, *__: Any) -> str:
    return Markup('<pre tabindex="0"><code>{}</code></pre>\n').format(marked(tokens[index].content))


def _table(*_: Any) -> str:
    return Markup('<table class="written">\n')


def _link(renderer: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    """Links leave the console, so they tell the other side nothing, and look like their target."""
    token = tokens[index]
    token.attrSet("rel", "noreferrer noopener nofollow")
    token.attrSet("title", str(token.attrGet("href")))
    return str(renderer.renderToken(tokens, index, options, env))
