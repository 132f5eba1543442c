"""What MkDocs does beside the pages of this folder, see mkdocs.yml."""

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
ALSO = {"changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}  # they stand beside README.md
MERMAID = "assets/mermaid.js"
ABOVE = re.compile(
    r"\]\(\.\./([^)#]+)"
)  # a file of the repository that a page of this folder links to


def on_startup(command: str, dirty: bool) -> None:  # noqa: ARG001 (MkDocs' own signature)
    """A diagram that cannot be drawn fails the build, not its readers."""
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
    """Adds what pages need of the folder above, and Mermaid, which else comes from elsewhere."""
    for name, source in ALSO.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, name, content=re.sub(r"\]\(docs/", "](", text)))
    for name in sorted(_linked_above()):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    mermaid = resources_of("mermaidx").joinpath("assets/mermaid.js").read_text("utf-8")
    files.append(File.generated(config, MERMAID, content=mermaid))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """What is above this folder in the repository lies beside the pages on the site."""
    return markdown if "/" in page.file.src_uri else ABOVE.sub(r"](\1", markdown)


def _linked_above() -> set[str]:
    pages = ROOT.joinpath("docs").glob("*.md")
    return {name for page in pages for name in ABOVE.findall(page.read_text("utf-8"))}


def _diagrams() -> Iterator[tuple[Path, str]]:
    """Those of all pages; of entities with columns only the first one: drawing all takes long."""
    for page in (ROOT / "README.md", *ROOT.joinpath("docs").rglob("*.md")):
        for diagram in re.findall(r"^```mermaid\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
            yield page, re.sub(r"(\{\n[^\n}]+\n)[^}]+(    \})", r"\1\2", diagram)
