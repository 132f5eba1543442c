"""Imports point one way, folders are layers, and modules are named by nouns."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

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
    """Return the dotted names of everything imported, also for type checking alone."""
    return names_in(ast.parse(path.read_text("utf-8")))


def names_in(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_imports_point_one_way() -> None:
    assert {wrong for path in MODULES for wrong in _imports_of_higher_layers(path)} == set()


def _imports_of_higher_layers(path: Path) -> Iterator[str]:
    layer = layer_of(path)
    if layer == "__init__":
        return
    for name in imported(path):
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top == "worker" and other in RANK and other != layer and RANK[other] > RANK[layer]:
            yield f"{path.relative_to(PACKAGE)} imports {name}"


def test_every_folder_and_top_level_module_is_a_layer() -> None:
    assert {layer_of(path) for path in MODULES} - {"__init__"} == set(RANK)


def test_the_top_of_the_package_stays_small() -> None:
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 28


def test_the_domain_needs_the_standard_library_alone() -> None:
    known = sys.stdlib_module_names | {"worker"}
    for path in (PACKAGE / "domain").glob("*.py"):
        assert {name.partition(".")[0] for name in imported(path)} <= known, path.name


def test_imports_for_type_checking_alone_save_something() -> None:
    """The standard library is imported plainly: that costs nothing."""
    assert {path.name for path in NAMED if _guards_the_standard_library(path)} == set()


def _guards_the_standard_library(path: Path) -> bool:
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            guarded = {name.partition(".")[0] for name in names_in(node)}
            return guarded <= sys.stdlib_module_names
    return False


def test_modules_are_named_by_nouns() -> None:
    """Not by gerunds or participles: a module has the name of its role."""
    assert {str(path.relative_to(ROOT)) for path in NAMED if not _is_named_by_noun(path)} == set()


def _is_named_by_noun(path: Path) -> bool:
    name = path.parent.name if path.name == "__init__.py" else path.stem
    name = name.removeprefix("test_")
    if name.rpartition("_")[2] in FIELD_TERMS:
        return True
    return not re.search(r"(ing|ed)$", name) and name not in VAGUE
