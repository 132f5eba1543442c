"""Draw the dashboard of a real run: `python -m benchmarks.picture FILE.png`.

Two workers on PostgreSQL and Valkey work for some minutes at a sandbox that throttles, fails inputs
and loses responses. The sandbox is stopped for a while (grey), and one worker is killed (dashed). A
real Prometheus scrapes the workers, and each panel of `deploy/grafana-dashboard.json` is drawn from
its own queries. It needs `prometheus` in the PATH (Debian's package) and the extra `bench`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import matplotlib

from benchmarks.measurement import inputs_of
from tests.support.servers import PostgresServer, ValkeyServer, free_port
from worker import enqueue
from worker.config import load_settings
from worker.store.database import Database
from worker.store.migrate import upgrade

matplotlib.use("Agg")
from matplotlib import dates
from matplotlib import pyplot as plt
from PIL import Image

ROOT = Path(__file__).parent.parent
DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
SECONDS = 420.0  # of work; the faults happen at these times
OUTAGE = (150.0, 200.0)
KILL, REPLACED = 290.0, 300.0
SCRAPE_SECONDS = 2
JUDGES = ("answer-quality", "math", "response-checks")
COLORS = plt.rcParams["axes.prop_cycle"].by_key()["color"]

SANDBOX = (
    *("--latency", "3", "9", "--fail-items", "0.03", "--lose-answers", "0.02"),
    *("--server-errors", "0.02", "--max-running", "7"),
)


def main(target: str) -> None:
    with contextlib.ExitStack() as around:
        folder = around.enter_context(tempfile.TemporaryDirectory())
        url, began = run_work(around, Path(folder))
        draw(url, began, time.time(), target)


def run_work(around: contextlib.ExitStack, folder: Path) -> tuple[str, float]:
    """Run the work with its faults. Return the URL of Prometheus, and when it began."""
    postgres, valkey = PostgresServer(durable=True), ValkeyServer()
    for server in (postgres, valkey):
        around.callback(server.close)
        server.start()
    database = Database(load_settings(database_url=postgres.url()).sqlalchemy_url)
    around.callback(database.close)
    upgrade(database)
    ports = {name: free_port() for name in ("sandbox", "first", "second", "prometheus")}
    env = {
        "EVALWORKER_DATABASE_URL": postgres.url(),
        "EVALWORKER_BROKER_URL": valkey.url("picture"),
        "EVALWORKER_API_URL": f"http://127.0.0.1:{ports['sandbox']}",
        "EVALWORKER_API_KEY": "sandbox-key",
        "EVALWORKER_MAX_IN_FLIGHT": "10",
        "EVALWORKER_LOG_LEVEL": "ERROR",
    }
    processes = Processes(folder, env, ports)
    around.callback(processes.end)
    processes.start("sandbox")
    processes.start("prometheus")
    time.sleep(3)
    for name in ("first", "second"):
        processes.start(name)
    faults = (
        (OUTAGE[0], lambda: processes.kill("sandbox")),
        (OUTAGE[1], lambda: processes.start("sandbox")),
        (KILL, lambda: processes.kill("second")),
        (REPLACED, lambda: processes.start("second")),
    )
    timers = [threading.Timer(at, act) for at, act in faults]
    began = time.time()
    for timer in timers:
        timer.start()
    produce(database, time.monotonic() + SECONDS)
    return f"http://127.0.0.1:{ports['prometheus']}", began


class Processes:
    """Starts and kills processes by name."""

    def __init__(self, folder: Path, env: dict[str, str], ports: dict[str, int]) -> None:
        self._env = {**os.environ, **env}
        self._ports = ports
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        targets = [f"127.0.0.1:{ports[name]}" for name in ("first", "second")]
        scrape = {"job_name": "evalworker", "static_configs": [{"targets": targets}]}
        config = {"global": {"scrape_interval": f"{SCRAPE_SECONDS}s"}, "scrape_configs": [scrape]}
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML

    def start(self, name: str) -> None:
        worker = [sys.executable, "-m", "worker"]
        port, env = self._ports[name], self._env
        match name:
            case "sandbox":
                state = str(self._folder / "judge.db")
                command = [*worker, "sandbox", "--port", str(port), "--state", state, *SANDBOX]
            case "prometheus":
                command = [
                    "prometheus",
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ]
            case _:
                command, env = [*worker, "run"], {**env, "EVALWORKER_OPS_PORT": str(port)}
        log = (self._folder / f"{name}.log").open("ab")
        self._running[name] = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        self._running[name].send_signal(signal.SIGKILL)
        self._running[name].wait()

    def end(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()


def produce(database: Database, until: float) -> None:
    """Enqueue jobs of all sizes, in bursts with pauses between them."""
    number = 0
    while time.monotonic() < until:
        with database.engine.begin() as connection:
            for judge in JUDGES:
                number += 1
                size = 20 + number * 37 % 130
                enqueue(connection, judge_id=judge, inputs=inputs_of(size))
        time.sleep(3 if number % 45 < 30 else 8)


# --- drawing ------------------------------------------------------------------------------------


def draw(url: str, began: float, ended: float, target: str) -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    graphs = [
        (panel, found)
        for panel in panels
        if panel["type"] == "timeseries" and (found := series_of(url, panel, began, ended))
    ]
    rows = -(-len(graphs) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(15, 2.1 * rows), squeeze=False)
    for axis in axes.flat[len(graphs) :]:
        axis.set_visible(False)
    for axis, (panel, found) in zip(axes.flat, graphs, strict=False):
        draw_panel(axis, panel, found)
        axis.set_xlim(moment(began), moment(ended))
        axis.axvspan(moment(began + OUTAGE[0]), moment(began + OUTAGE[1]), color="0.9")
        axis.axvline(moment(began + KILL), color="0.6", ls="--", lw=1)
    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80)
    Image.open(drawn).convert("RGB").quantize(48).save(target, optimize=True)


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def series_of(
    url: str, panel: dict[str, Any], began: float, ended: float
) -> list[tuple[str, list[Any]]]:
    """Return name and points of each series that Prometheus has for the queries of a panel."""
    found = []
    for target in panel["targets"]:
        query = target["expr"].replace("$job", "evalworker").replace("$__rate_interval", "30s")
        given = {"query": query, "start": began, "end": ended, "step": SCRAPE_SECONDS}
        response = httpx.get(f"{url}/api/v1/query_range", params=given, timeout=30)
        response.raise_for_status()
        for one in response.json()["data"]["result"]:
            legend = target["legendFormat"]
            for label, value in one["metric"].items():
                legend = legend.replace(f"{{{{{label}}}}}", value)
            points = [(float(at), float(value)) for at, value in one["values"]]
            if any(value > 0 for _, value in points):
                found.append((legend, points))
    return found


def draw_panel(axis: Any, panel: dict[str, Any], found: list[tuple[str, list[Any]]]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    title = f"{panel['title']} (s)" if unit == "s" else panel["title"]
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
    for number, (legend, points) in enumerate(found):
        times = [moment(at) for at, _ in points]
        values = [value for _, value in points]
        axis.plot(times, values, lw=1.1, label=legend, color=COLORS[number % len(COLORS)])
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=7)
    axis.xaxis.set_major_formatter(dates.DateFormatter("%H:%M", tz=UTC))
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.02), frameon=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
