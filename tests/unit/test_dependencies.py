"""Dependencies have lower and upper bounds, which are tested, and known licences."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from scripts.describe_dependencies import ACCEPTED, installed_with, licence_of
from scripts.generate_docs import DEPENDENCIES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REQUIRED = [Requirement(text) for text in PROJECT["dependencies"]]


def bound(given: Requirement, operator: str) -> Version | None:
    found = [Version(part.version) for part in given.specifier if part.operator == operator]
    return found[0] if found else None


@pytest.mark.parametrize("given", REQUIRED, ids=lambda given: given.name)
def test_every_dependency_has_a_lower_and_an_upper_bound(given: Requirement) -> None:
    lowest, too_new = bound(given, ">="), bound(given, "<")
    assert lowest is not None
    assert too_new is not None
    assert lowest < too_new


def test_the_lowest_versions_are_those_that_are_tested() -> None:
    tried = dict(
        re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "tests/lowest.txt").read_text("utf-8"), re.M)
    )
    assert tried.keys() == {given.name for given in REQUIRED}
    for given in REQUIRED:
        assert bound(given, ">=") == Version(tried[given.name])


def test_every_licence_is_one_that_may_be_used() -> None:
    page = DEPENDENCIES.read_text("utf-8")
    for name in installed_with("evalworker"):
        assert all(
            ACCEPTED.fullmatch(word) for word in re.split(r" OR | AND ", licence_of(name))
        ), name
    for given in REQUIRED:
        assert f"| {given.name} |" in page, "run `python -m scripts.generate_docs`"
