"""Hooks of MkDocs (see mkdocs.yml): pages from outside this folder, and diagrams without a CDN."""

from __future__ import annotations

import re
from importlib.resources import files as resources_of
from pathlib import Path
from typing import TYPE_CHECKING

import mermaidx
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES_AT_ROOT = {"changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}
MERMAID = "assets/mermaid.js"
# A link from a page of this folder to a file of the repository's root.
LINK_TO_ROOT = re.compile(r"\]\(\.\./([^)#]+)")


def on_startup(command: str, dirty: bool) -> None:  # noqa: ARG001 (MkDocs' own signature)
    """Fail the build if a diagram cannot be drawn."""
    if command != "build":
        return
    for page, diagram in _diagrams():
        try:
            mermaidx.render(diagram).svg()
        except RuntimeError as error:
            raise PluginError(f"{page.name}: {error}") from error


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.extra_javascript.append(MERMAID)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages and linked files from the repository's root, and Mermaid itself."""
    for name, source in PAGES_AT_ROOT.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, name, content=re.sub(r"\]\(docs/", "](", text)))
    for name in sorted(_linked_from_pages()):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    mermaid = resources_of("mermaidx").joinpath("assets/mermaid.js").read_text("utf-8")
    files.append(File.generated(config, MERMAID, content=mermaid))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Rewrite links to the repository's root, whose files are beside the pages on the site."""
    return markdown if "/" in page.file.src_uri else LINK_TO_ROOT.sub(r"](\1", markdown)


def _linked_from_pages() -> set[str]:
    pages = ROOT.joinpath("docs").glob("*.md")
    return {name for page in pages for name in LINK_TO_ROOT.findall(page.read_text("utf-8"))}


def _diagrams() -> Iterator[tuple[Path, str]]:
    """Yield the diagrams of all pages. Entities keep one column, because drawing all is slow."""
    for page in (ROOT / "README.md", *ROOT.joinpath("docs").rglob("*.md")):
        for diagram in re.findall(r"^```mermaid\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
            yield page, re.sub(r"(\{\n[^\n}]+\n)[^}]+(    \})", r"\1\2", diagram)
