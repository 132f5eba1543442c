"""Imports point one way, folders are layers, and modules are named by nouns."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from scripts.describe_layers import LAYERS, PACKAGE

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts)
ROOT = PACKAGE.parent
BESIDE_THE_PACKAGE = ("tests", "benchmarks", "scripts")
NAMED = [
    *MODULES,
    *(path for folder in BESIDE_THE_PACKAGE for path in (ROOT / folder).rglob("*.py")),
]

RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

FIELD_TERMS = {"batching", "parsing", "planning", "polling", "tracing"}  # nouns of the field
VAGUE = {"answers", "common", "helpers", "many", "misc", "models", "pace", "services", "shapes"}
VAGUE |= {"tasks", "told", "types", "utils"}


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of everything imported, also for type checking alone."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    layer = layer_of(path)
    if layer == "__init__":
        return
    for name in imported(path):
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top == "worker" and other in RANK and other != layer:
            assert RANK[other] <= RANK[layer], f"{layer} imports {other}"


def test_every_folder_and_top_level_module_is_a_layer() -> None:
    assert {layer_of(path) for path in MODULES} - {"__init__"} == set(RANK)


def test_the_top_of_the_package_stays_small() -> None:
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 28


@pytest.mark.parametrize("path", sorted((PACKAGE / "domain").glob("*.py")), ids=lambda p: p.stem)
def test_the_domain_needs_the_standard_library_alone(path: Path) -> None:
    foreign = {"sqlalchemy", "httpx", "dramatiq", "pydantic", "structlog", "starlette"}
    assert not {name.partition(".")[0] for name in imported(path)} & foreign


@pytest.mark.parametrize("path", NAMED, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_named_by_nouns(path: Path) -> None:
    name = path.parent.name if path.name == "__init__.py" else path.stem
    name = name.removeprefix("test_")
    last_word = name.rpartition("_")[2]
    if last_word in FIELD_TERMS:
        return
    assert not re.search(r"(ing|ed)$", name), "a gerund or participle: name the role instead"
    assert name not in VAGUE
