"""Imports point one way; a producer's import stays light (see tests/integration/test_outbox.py)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import worker

PACKAGE = Path(worker.__file__).parent

# What a module may import of our own, beside what stands above it in this list.
LAYERS = [
    {"lifecycle", "schedule", "errors", "comments"},
    {"answers", "wire"},
    {"validation", "config", "schema", "remote", "webhook", "port"},
    {"store"},
    {"durations", "migrating", "opening", "intake", "tracing", "outbox"},
    {"search", "gatekeeping", "watch", "steps", "notices", "exporting", "pruning"},
    {"logs", "metrics", "brokers", "listening", "actors", "dispatcher"},
    {"sandbox", "gateway"},
    {"app"},
    {"ops", "demo", "admin"},
    {"cli"},
]
PURE = {"lifecycle", "schedule", "errors", "answers", "comments"}
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts)


def role_of(path: Path) -> str:
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
    role = role_of(path)
    if role == "__init__":
        return
    for name in imported(path):
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top == "worker" and other in RANK and other != role:
            assert RANK[other] <= RANK[role], f"{role} imports {other}"


@pytest.mark.parametrize("role", sorted(PURE))
def test_decisions_without_effects_need_the_standard_library_alone(role: str) -> None:
    foreign = {"sqlalchemy", "httpx", "dramatiq", "pydantic", "structlog", "starlette"}
    tops = {name.partition(".")[0] for name in imported(PACKAGE / f"{role}.py")}
    assert not tops & foreign


def test_every_module_has_its_place_in_the_drawing() -> None:
    assert {role_of(path) for path in MODULES} - {"__init__"} == set(RANK)
