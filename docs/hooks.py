"""What MkDocs does beside the pages of this folder, see mkdocs.yml."""

from __future__ import annotations

import re
from importlib.resources import files as resources_of
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
ALSO = {"changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}  # they stand beside README.md
MERMAID = "assets/mermaid.js"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.extra_javascript.append(MERMAID)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds pages of the folder above, and Mermaid, which the theme would load from elsewhere."""
    for name, source in ALSO.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, name, content=re.sub(r"\]\(docs/", "](", text)))
    mermaid = resources_of("mermaidx").joinpath("assets/mermaid.js").read_text("utf-8")
    files.append(File.generated(config, MERMAID, content=mermaid))
    return files
