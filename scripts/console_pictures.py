"""Take the pictures of the console in the documentation: `python -m scripts.console_pictures`.

It evaluates the demo's inputs twice, the second time with better answers, and needs the extra
`browser` and a Chromium.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from playwright.sync_api import sync_playwright

from worker.admin import Admin
from worker.app import App
from worker.cli.demo import INPUTS
from worker.config import Settings, load_settings
from worker.console.server import serving_console
from worker.outbox import enqueue
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import running_sandbox
from worker.store.database import Database, open_database
from worker.store.migrate import upgrade

IMAGES = Path(__file__).parents[1] / "docs" / "images"
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
WIDTH, HEIGHT = 1280, 860
IMPROVED = 0.3  # the share of answers that are better in the second run


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_sandbox(SandboxOptions(latency=(0.05, 0.1))) as judge,
    ):
        settings = load_settings(
            database_url=f"sqlite:///{folder}/evalworker.db",
            api_url=judge.url,
            api_key=judge.api_key,
            linger_seconds=0,
            poll_min_seconds=0.1,
            max_item_attempts=1,
            console_port=0,
            log_level="ERROR",
        )
        jobs = _evaluate(settings)
        with serving_console(settings) as url:
            _take_pictures(url, *jobs)


def _evaluate(settings: Settings) -> tuple[UUID, UUID]:
    database = open_database(settings, create=True)
    upgrade(database)
    given = [json.loads(line) for line in INPUTS.read_text("utf-8").splitlines()]
    first = _enqueue(database, given, "prompt 1")
    second = _enqueue(database, list(_improved(given)), "prompt 2")
    with App(settings) as app:
        app.run(until=app.is_drained)
    with Admin(settings.database_url) as admin:
        admin.pause("grounding", reason="its prompt is being changed")
    database.close()
    return first, second


def _enqueue(database: Database, inputs: Sequence[dict[str, Any]], tag: str) -> UUID:
    with database.engine.begin() as connection:
        return enqueue(connection, judge_id="answer-quality", inputs=inputs, tags=["demo", tag])


def _improved(inputs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    chance = random.Random(7)
    for given in inputs:
        better = given.get("expected_output") and chance.random() < IMPROVED
        yield {**given, "response": given["expected_output"]} if better else given


def _take_pictures(url: str, first: UUID, second: UUID) -> None:
    pages: dict[str, tuple[str, Literal["light", "dark"]]] = {
        "overview": ("", "light"),
        "job": (f"jobs/{second}", "light"),
        "input": (f"jobs/{first}/inputs/5?sort=worst&view=difference", "dark"),
        "compare": (f"compare?a={first}&b={second}", "light"),
    }
    program = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for name, (path, theme) in pages.items():
            context = browser.new_context(
                viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=theme
            )
            page = context.new_page()
            page.goto(url + path)
            page.screenshot(path=IMAGES / f"console-{name}.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
