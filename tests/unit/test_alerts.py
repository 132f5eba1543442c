"""Dashboard, alerts and runbook use metrics and labels that the service exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.generate_docs import METRICS_PAGE, pages
from worker.metrics.definitions import METRICS

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
RUNBOOK = ROOT / "docs" / "runbook.md"

BY_NAME = {metric.name: metric for metric in METRICS}
OF_PROMETHEUS = {"job", "instance", "le"}  # added by Prometheus
FOREIGN = {"up", "process_start_time_seconds"}  # metrics of Prometheus and of its client
PROMTOOL = shutil.which("promtool")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text("utf-8"))["panels"])


def queries() -> Iterator[tuple[str, str]]:
    """Where a query stands, and the query."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for note in json.loads(DASHBOARD.read_text("utf-8"))["annotations"]["list"]:
        yield f"annotation {note['name']}", note["expr"]
    for variable in json.loads(DASHBOARD.read_text("utf-8"))["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["query"]["query"]


QUERIES = list(queries())


@pytest.mark.parametrize(("place", "query"), QUERIES, ids=[place for place, _ in QUERIES])
def test_queries_use_exported_metrics_and_labels(place: str, query: str) -> None:
    selectors = re.findall(r"\b([a-z]\w*?_\w+|up)\b(\{[^}]*\})?", query)
    used = [(name, labels) for name, labels in selectors if is_metric(name)]
    assert used, "a query of no metric"
    allowed = set(OF_PROMETHEUS)
    for name, selector in used:
        assert name in FOREIGN or base(name) in BY_NAME, f"{place}: there is no {name}"
        own = set() if name in FOREIGN else set(BY_NAME[base(name)].labels)
        asked = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector))
        assert asked <= own | OF_PROMETHEUS, f"{place}: {name} has no {asked - own}"
        allowed |= own
    for labels in re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", query):
        grouped = {label.strip() for label in labels.split(",") if label.strip()}
        assert grouped <= allowed, f"{place}: grouped by {grouped - allowed}"


def is_metric(name: str) -> bool:
    return name.startswith("evalworker_") or name in FOREIGN


def base(name: str) -> str:
    """A histogram's own name, for one of its series."""
    plain = re.sub(r"_(bucket|sum|count)$", "", name)
    return plain if plain in BY_NAME and BY_NAME[plain].kind == "histogram" else name


@pytest.mark.parametrize(("place", "query"), QUERIES, ids=[place for place, _ in QUERIES])
def test_counters_are_read_as_rates_and_gauges_are_not(place: str, query: str) -> None:
    for before, name in re.findall(r"(\w+\()?\b(evalworker_\w+)", query):
        kind = BY_NAME[base(name)].kind
        as_rate = before in ("rate(", "increase(")
        assert as_rate == (kind != "gauge"), f"{place}: {name}"


def test_metrics_of_the_database_are_never_summed_over_replicas() -> None:
    for place, query in QUERIES:
        for metric in METRICS:
            if metric.scope == "database" and re.search(rf"\b{metric.name}\b", query):
                pattern = rf"max(?: by \(\w+\))? ?\({metric.name}\b"
                assert re.search(pattern, query), f"{place}: {metric.name}"


def test_every_metric_of_a_problem_is_used_by_dashboard_or_alert() -> None:
    shown = {base(name) for _, query in QUERIES for name in re.findall(r"evalworker_\w+", query)}
    assert set(BY_NAME) - shown == {
        "evalworker_batches_planned_total",  # the submitted ones are shown
        "evalworker_batches_held_total",  # their current number is shown
        "evalworker_gate_closures_total",  # the closed gates are shown
        "evalworker_database_pooler_info",  # a fact, and no problem
    }


@pytest.mark.parametrize("rule", rules(), ids=[rule["alert"] for rule in rules()])
def test_every_alert_has_its_section_of_the_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    text = RUNBOOK.read_text("utf-8")
    sections = re.findall(r"^## (\w+)$", text, re.MULTILINE)
    assert sections == [rule["alert"] for rule in rules()]
    for anchor in re.findall(r"\]\(#(\w+)\)", text):
        assert anchor in {section.lower() for section in sections}


def test_the_runbook_names_log_events_and_panels_that_exist() -> None:
    text = RUNBOOK.read_text("utf-8")
    code = "".join(path.read_text("utf-8") for path in ROOT.glob("worker/**/*.py"))
    events = re.findall(r"`([a-z_]+\.[a-z_]+)`\s+in\s+the\s+log", text)
    assert len(events) >= 4
    for event in events:
        assert f'"{event}"' in code, event
    dashboard = DASHBOARD.read_text("utf-8")
    for title in re.findall(r'"([^"]+)"\s+(?:with|on\s+the\s+dashboard|rises)', text):
        assert f'"{title}"' in dashboard, title


def test_panels_do_not_overlap() -> None:
    occupied: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & occupied, panel["title"]
        occupied |= cells
    assert max(x for x, _ in occupied) < 24
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_the_documented_metrics_are_those_of_the_code() -> None:
    text = METRICS_PAGE.read_text("utf-8")
    assert pages()[METRICS_PAGE] == text, "run `python -m scripts.generate_docs`"


with_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool comes with Debian's package prometheus"
)


@with_promtool
def test_prometheus_accepts_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"query_{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, (place, query) in enumerate(QUERIES)
        if not place.startswith("variable ")
    ]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    assert_accepted("check", "rules", str(tmp_path / "rules.yaml"))


@with_promtool
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", str(ALERTS)), ("test", "rules", str(ROOT / "tests" / "alerts_test.yaml"))],
    ids=["check", "test"],
)
def test_prometheus_accepts_the_rules(arguments: tuple[str, ...]) -> None:
    assert_accepted(*arguments)


def assert_accepted(*arguments: str) -> None:
    found = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
