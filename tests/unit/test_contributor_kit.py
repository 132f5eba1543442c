"""The contributor's kit says what is true: tasks, workflow, pins and the version agree."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import worker

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
TASKS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.partition("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in pairs}


def requirements() -> list[Requirement]:
    project = PYPROJECT["project"]
    given = [*project["dependencies"], *PYPROJECT["dependency-groups"]["dev"]]
    given += [text for extra in project["optional-dependencies"].values() for text in extra]
    return [Requirement(text) for text in given]


def test_the_tasks_are_those_that_the_guide_names() -> None:
    assert set(re.findall(r"`make (\w+)", CONTRIBUTING)) | {"install", "help"} == TASKS
    assert {"fmt", "lint", "type", "test", "bench", "docs"} <= TASKS


def test_every_task_of_the_makefile_can_be_planned() -> None:
    done = subprocess.run(
        ["make", "--dry-run", *sorted(TASKS)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = set(re.findall(r"python -m ([\w.]+)", done.stdout))
    assert {"ruff", "mypy", "pytest", "benchmarks", "mkdocs", "scripts.generate_docs"} <= modules


def test_pre_commit_runs_tasks_of_the_makefile_and_fetches_nothing() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    for repository in config["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            assert hook["entry"] == f"make {hook['id']}"
            assert hook["id"] in TASKS


def test_the_workflow_calls_the_same_script_as_the_guide_on_every_version() -> None:
    workflow: dict[Any, Any] = yaml.safe_load(
        (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    )
    (job,) = workflow["jobs"].values()
    (run,) = [step for step in job["steps"] if "run" in step]
    assert run["run"] == ".ci/run"
    assert "${PYTHON:-" in (ROOT / ".ci" / "run").read_text("utf-8")
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert PYPROJECT["project"]["requires-python"] == ">=3.11"


def test_constraints_are_names_and_versions_and_cover_what_we_require() -> None:
    text = (ROOT / "constraints.txt").read_text("utf-8")
    for line in text.splitlines():
        assert re.fullmatch(r"#.*|[\w.-]+==[\w.+!]+", line), line
    tried = constraints()
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        if name != "evalworker":
            assert requirement.specifier.contains(tried[name]), requirement


def test_the_group_for_development_has_every_extra_that_tests_and_tools_need() -> None:
    (itself,) = [r for r in requirements() if r.name == "evalworker"]
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert itself.extras == extras.keys() - {"otel", "parquet", "socks"}  # those are among `test`
    assert {*extras["otel"], *extras["parquet"], *extras["socks"]} <= set(extras["test"])


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("Dockerfile", r"^ARG VERSION=(.+)$"),
        ("deploy/kubernetes/kustomization.yaml", r"^ +newTag: (.+)$"),
        ("deploy/kubernetes/migrate/kustomization.yaml", r"^ +newTag: (.+)$"),
        ("docs/deployment.md", r"VERSION=(\S+)"),
    ],
)
def test_files_that_repeat_the_version_repeat_this_one(path: str, pattern: str) -> None:
    found = re.findall(pattern, (ROOT / path).read_text("utf-8"), re.MULTILINE)
    assert found == [worker.__version__]


def test_the_version_has_one_source_and_leads_the_changelog() -> None:
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "worker/__init__.py"
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    latest = re.search(r"^## (\d\S*?),? ", changelog, re.MULTILINE)
    assert latest is not None
    assert latest[1] == worker.__version__


def test_links_and_paths_of_the_guide_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", CONTRIBUTING):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:worker|tests|docs|migrations|deploy)/[\w./]+)`", CONTRIBUTING):
        assert (ROOT / path).exists(), path


def test_the_core_of_the_tests_exists() -> None:
    """`.ci/lowest` names its tests one by one."""
    named = re.findall(r"tests/[\w/]+\.py", (ROOT / ".ci" / "lowest").read_text("utf-8"))
    assert named
    for path in named:
        assert (ROOT / path).exists(), path
