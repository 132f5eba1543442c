"""Find the migrations and the plain SQL scripts that come with the worker."""

from __future__ import annotations

from pathlib import Path


def scripts_folder() -> Path:
    """Return `migrations/`: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def read_script(name: str) -> str:
    """Return the text of a SQL script, such as "roles.sql"."""
    return (scripts_folder() / name).read_text("utf-8")
