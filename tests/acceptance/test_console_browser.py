"""The console in a real browser: nothing is broken, blocked, foreign or unreadable."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import pytest

from tests.support.browsers import REASON, REQUIRED, browser_path
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.shared_servers import sqlite_template
from worker.admin import Admin
from worker.config import load_settings
from worker.console.report import render_report
from worker.console.server import serving_console
from worker.outbox import enqueue
from worker.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.skipif(not REQUIRED and browser_path() is None, reason=REASON)

HOSTILE = "<script>alert(1)</script><img src=//evil.example/x onerror=alert(2)>\u202eeve\u202c"


class Site(NamedTuple):
    """A console with two jobs over the same inputs, a held batch and a pause."""

    url: str
    first: UUID
    second: UUID
    database_url: str

    def paths(self) -> list[str]:
        job = f"jobs/{self.second}"
        return [
            "",
            "jobs",
            job,
            f"{job}/inputs?sort=worst",
            f"{job}/inputs/0",
            f"{job}/inputs/1?view=markdown",
            f"{job}/inputs/2?view=difference",
            f"{job}/inputs?q=nothing-has-this",
            f"compare?a={self.first}&b={self.second}",
            "compare",
            "failures",
            "batches",
            "events",
            "health",
            f"retry?job={self.second}",
            "pause?judge=judge",
            "nowhere",
        ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    file = tmp_path_factory.mktemp("console") / "evalworker.db"
    shutil.copyfile(sqlite_template(), file)
    database = Database(f"sqlite:///{file}")
    replica = ManualReplica(database, FakeJudgeAPI(), max_item_attempts=1)
    jobs = [_enqueue(database, answer) for answer in ("an answer", "another answer")]
    replica.finish()
    replica.enqueue([f"waits {HOSTILE}"], judge_id="paused")
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO eval_pauses VALUES"
            " ('paused', 'its prompt changes', '2026-01-01 00:00:00.000000+00:00')"
        )
    settings = load_settings(database_url=f"sqlite:///{file}", console_port=0)
    with serving_console(settings) as url:
        yield Site(url, jobs[0], jobs[1], settings.database_url)
    database.close()


def _enqueue(database: Database, answer: str) -> UUID:
    questions = [HOSTILE, "**What** is\n\n- the capital\n- of Perú?", "日本の首都", "ما هي؟"]
    questions += [f"{'question ' * n}?" for n in range(1, 60)] + ["fail"]
    inputs = [
        {"request": text, "response": f"{answer} {text}", "expected_output": f"an answer {text}"}
        for text in questions
    ]
    with database.engine.begin() as connection:
        return enqueue(
            connection, judge_id="judge", inputs=inputs, tags=[answer], metadata={HOSTILE: 1}
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=["light", "dark"])
def page(browser: Browser, site: Site, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page on which any message, dialog or request to elsewhere fails the test."""
    yield from _quiet_page(browser, site, color_scheme=request.param)


@pytest.fixture
def visitor(browser: Browser, site: Site) -> Iterator[Page]:
    yield from _quiet_page(browser, site)


@pytest.fixture
def narrow_page(browser: Browser, site: Site) -> Iterator[Page]:
    yield from _quiet_page(browser, site, viewport={"width": 360, "height": 740})


def _quiet_page(browser: Browser, site: Site, **options: Any) -> Iterator[Page]:
    context = browser.new_context(**options)
    opened = context.new_page()
    heard: list[str] = []

    def hear_request(sent: Any) -> None:
        if not sent.url.startswith((site.url, "file:")):
            heard.append(sent.url)

    def hear_dialog(dialog: Any) -> None:
        heard.append(dialog.message)
        dialog.dismiss()

    opened.on("console", lambda message: heard.append(message.text))
    opened.on("pageerror", lambda error: heard.append(str(error)))
    opened.on("dialog", hear_dialog)
    opened.on("request", hear_request)
    yield opened
    context.close()
    assert [text for text in heard if "404 (Not Found)" not in text] == []


def violations(page: Page) -> list[str]:
    """What axe finds against WCAG 2.2 AA and its best practices."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


def check_every_page(page: Page, paths: list[str], site: Site) -> None:
    for path in paths:
        page.goto(site.url + path)
        assert violations(page) == [], path
        width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert width <= 0, f"{path} is {width} px too wide"


def test_the_main_pages_are_accessible_and_quiet(page: Page, site: Site) -> None:
    check_every_page(page, [f"jobs/{site.second}", f"jobs/{site.second}/inputs/0"], site)


def test_a_report_is_accessible_and_quiet_at_any_width(
    page: Page, site: Site, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    with Admin(site.database_url) as admin, admin.database.read() as connection:
        file.write_text(render_report(connection, site.second, site.first), "utf-8")
    page.goto(file.as_uri())
    assert violations(page) == []
    for width in (360, 1280, 2560):
        page.set_viewport_size({"width": width, "height": 800})
        too_wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert too_wide <= 0, f"{too_wide} px at {width}"


@pytest.mark.long
def test_every_page_is_accessible_and_quiet(page: Page, site: Site) -> None:
    check_every_page(page, site.paths(), site)


@pytest.mark.long
def test_every_page_fits_a_telephone(narrow_page: Page, site: Site) -> None:
    check_every_page(narrow_page, site.paths(), site)


def test_a_newcomer_finds_the_worst_answer_and_retries_a_failure_by_keyboard(
    visitor: Page, site: Site
) -> None:
    page = visitor
    page.goto(site.url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.locator("a.id").nth(1).press("Enter")
    page.get_by_role("link", name="All, worst first").press("Enter")
    page.locator("tbody th a").first.press("Enter")
    page.wait_for_url(re.compile(r"inputs/\d+"))
    first = page.url
    page.keyboard.press("j")
    page.wait_for_url(lambda url: url != first)
    assert "sort=worst" in page.url
    page.keyboard.press("k")
    page.wait_for_url(first)
    page.goto(f"{site.url}jobs/{site.first}")
    page.get_by_role("link", name="Retry 1 failure").press("Enter")
    page.get_by_role("button", name="Evaluate again").press("Enter")
    assert "1 input of 1 job will be evaluated again." in page.inner_text("[role=status]")
    page.reload()
    assert page.query_selector("[role=status]") is None
    page.goto(f"{site.url}events?by=people")
    assert "console:local" in page.inner_text("tbody")


def test_the_overview_refreshes_itself_as_often_as_its_address_says(
    visitor: Page, site: Site
) -> None:
    visitor.clock.install()
    visitor.goto(f"{site.url}?refresh=30")
    with visitor.expect_request(lambda sent: sent.headers.get("hx-request") == "true"):
        visitor.clock.run_for(31_000)
    visitor.goto(f"{site.url}?refresh=off")
    sent: list[str] = []
    visitor.on("request", lambda request: sent.append(request.url))
    visitor.clock.run_for(120_000)
    assert sent == []
