"""The files of deploy/ name settings, ports, commands and paths that this version really has."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from scripts.generate_docs import ROOT
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.processes import environment, evalworker, started
from tests.support.servers import free_port, wait_until
from tests.support.shared_servers import machine_environment
from worker import __version__
from worker.config import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from worker.store.database import Database

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))
MANIFESTS = ROOT / "deploy" / "kubernetes"
SETTINGS = {f"EVALWORKER_{name.upper()}" for name in Settings.model_fields}
BESIDE_SETTINGS = {"EVALWORKER_MIGRATE"}  # an option of commands
OPS_PORT, GATEWAY_PORT, CONSOLE_PORT = 8080, 8322, 8323
COMMANDS = (
    ("migrate", "migrate"),
    ("worker", "run"),
    ("gateway", "gateway"),
    ("console", "console"),
)


def manifests() -> Iterator[dict[str, Any]]:
    for path in sorted(MANIFESTS.rglob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text("utf-8"))


def manifest(kind: str) -> dict[str, Any]:
    (found,) = [given for given in manifests() if given["kind"] == kind]
    return found


def instructions(word: str) -> list[str]:
    return re.findall(rf"^{word} +(.*)$", DOCKERFILE, re.MULTILINE)


def test_every_variable_is_a_setting() -> None:
    for path in [ROOT / "Dockerfile", *(ROOT / "deploy").rglob("*")]:
        if path.is_file():
            named = set(re.findall(r"EVALWORKER_[A-Z_]+", path.read_text("utf-8")))
            assert named <= SETTINGS | BESIDE_SETTINGS, path


def test_the_image_contains_what_the_build_needs_and_runs_unprivileged() -> None:
    user = instructions("USER")
    assert user == [re.search(r"--uid (\d+)", DOCKERFILE)[1]]  # type: ignore[index]
    assert set(instructions("EXPOSE")) == {f"{OPS_PORT} {GATEWAY_PORT} {CONSOLE_PORT}"}
    assert Settings.model_fields["gateway_port"].default == GATEWAY_PORT
    assert Settings.model_fields["console_port"].default == CONSOLE_PORT
    assert f"EVALWORKER_OPS_PORT={OPS_PORT}" in DOCKERFILE
    copied = " ".join(instructions("COPY")).split()
    kept = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    assert set(kept) <= set(copied)
    assert f"ARG VERSION={__version__}" in DOCKERFILE


@pytest.mark.parametrize(
    "given", ["", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"]
)
def test_a_certificate_authority_is_added_only_where_one_is_given(
    given: str, tmp_path: Path
) -> None:
    (run,) = re.findall(r"^RUN +(.*)$", DOCKERFILE.split("\nFROM base")[0], re.MULTILINE)
    (tmp_path / "update-ca-certificates").write_text("#!/bin/sh\necho updated\n")
    (tmp_path / "update-ca-certificates").chmod(0o755)
    done = subprocess.run(
        ["sh", "-euc", run.replace("/usr/local/share/ca-certificates", str(tmp_path))],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "CA_CERTIFICATE": given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ("updated\n" if given else "")
    written = tmp_path / "corporate.crt"
    assert (written.read_text() if written.exists() else "") == (f"{given}\n" if given else "")


def test_no_secret_of_the_build_is_an_argument() -> None:
    """Arguments stay in the history of an image; a password of the package index must not."""
    arguments = {name.partition("=")[0] for name in instructions("ARG")}
    assert {"PIP_INDEX_URL", "CA_CERTIFICATE"} <= arguments
    assert not [name for name in arguments if re.search("PASSWORD|TOKEN|USER|NETRC", name)]
    assert "--mount=type=secret,id=pip_conf" in DOCKERFILE
    assert not [name for name in instructions("COPY") if "pip.conf" in name]


def test_compose_starts_workers_after_the_migration_and_ends_them_in_order() -> None:
    services = COMPOSE["services"]
    for name, command in COMMANDS:
        assert services[name]["command"] == [command]
        assert evalworker(command, "--help", env=environment()).returncode == 0
        assert services[name]["read_only"]
    for name in ("worker", "gateway", "console"):
        waits_for = services[name]["depends_on"]["migrate"]["condition"]
        assert waits_for == "service_completed_successfully"
        assert services[name]["stop_grace_period"] == "35s"
    for name, port in (("gateway", GATEWAY_PORT), ("console", CONSOLE_PORT)):
        assert services[name]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_manifests_agree_with_the_image_and_with_each_other() -> None:
    pods = [manifest(kind)["spec"]["template"] for kind in ("Deployment", "Job")]
    for pod, command in zip(pods, ("run", "migrate"), strict=True):
        (container,) = pod["spec"]["containers"]
        assert (container["image"], container["args"]) == ("evalworker", [command])
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert [str(pod["spec"]["securityContext"]["runAsUser"])] == instructions("USER")
    (worker,) = pods[0]["spec"]["containers"]
    assert worker["ports"] == [{"name": "ops", "containerPort": OPS_PORT}]
    probes = {
        name: worker[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")
    }
    assert {probe["port"] for probe in probes.values()} == {"ops"}
    assert [probes[name]["path"] for name in probes] == ["/livez", "/livez", "/readyz"]
    assert pods[0]["spec"]["terminationGracePeriodSeconds"] > 30
    labels = pods[0]["metadata"]["labels"]
    for kind, selector in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        assert manifest(kind)["spec"][selector]["matchLabels"] == labels
    for path in MANIFESTS.rglob("kustomization.yaml"):
        given = yaml.safe_load(path.read_text("utf-8"))
        assert all((path.parent / name).is_file() for name in given["resources"])


def test_the_query_of_the_autoscaler_counts_what_waits(database_of_postgres: Database) -> None:
    replica = ManualReplica(database_of_postgres, FakeJudgeAPI())
    trigger = manifest("ScaledObject")["spec"]["triggers"][0]
    assert replica.one(trigger["metadata"]["query"]) == 0
    replica.enqueue(["one", "two"])
    assert replica.one(trigger["metadata"]["query"]) == 2
    replica.finish()
    assert replica.one(trigger["metadata"]["query"]) == 0


def test_the_images_health_check_asks_a_worker_that_runs(sqlite_url: str) -> None:
    check = json.loads(re.search(r"^HEALTHCHECK .*?CMD (\[.*\])$", DOCKERFILE, re.M)[1])  # type: ignore[index]
    port = free_port()
    env = environment(
        database_url=sqlite_url, ops_port=port, api_url="http://127.0.0.1:9", api_key="k"
    )
    health = [sys.executable, *check[1:]]
    assert subprocess.call(health, env=env, stderr=subprocess.DEVNULL) != 0
    with started(
        "gateway",
        env=env
        | {
            "EVALWORKER_GATEWAY_KEYS": '{"a": {"key": "a-long-enough-key"}}',
            "EVALWORKER_GATEWAY_PORT": "0",
        },
    ):
        wait_until(lambda: subprocess.call(health, env=env, stderr=subprocess.DEVNULL) == 0)
        answer = httpx.get(f"http://127.0.0.1:{port}/readyz")
    assert answer.json()["checks"]["database"] == "ok"


@pytest.mark.long
def test_the_dockerfiles_own_commands_make_an_installation_that_works(tmp_path: Path) -> None:
    """Its RUN in an empty prefix, with what is COPYed and nothing else, then its CMD."""
    source, prefix = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    _, build, final = re.split(r"\nFROM base\b", DOCKERFILE)
    for line in re.findall(r"^COPY +(.*)$", build, re.MULTILINE):
        *names, target = line.split()
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / target)
            else:
                shutil.copy(ROOT / name, source / target)
    (run,) = re.findall(r"^RUN +(?:--mount=\S+ +)*(.*)$", build, re.MULTILINE)
    python = tmp_path / "bin"
    python.mkdir()
    (python / "python").symlink_to(sys.base_prefix + "/bin/python3")
    (python / "pip").write_text(f'#!/bin/sh\nexec {sys.executable} -m pip "$@"\n')
    (python / "pip").chmod(0o755)
    env = machine_environment() | {"PATH": f"{python}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(
        run.replace("/opt/evalworker", str(prefix)), shell=True, cwd=source, env=env, check=True
    )
    shutil.rmtree(source)
    assert not (prefix / "bin" / "pip").exists()
    (entry,) = map(json.loads, re.findall(r"^ENTRYPOINT +(.*)$", final, re.MULTILINE))
    assert json.loads(re.findall(r"^CMD +(.*)$", final, re.MULTILINE)[0]) == ["run"]
    env = {"PATH": f"{prefix}/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    for arguments in (["migrate"], ["demo"]):
        done = subprocess.run(
            [*entry, *arguments], cwd=tmp_path, env=env, check=False, capture_output=True
        )
        assert done.returncode == 0, shlex.join(arguments)
