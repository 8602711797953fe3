"""The demos in a real browser: Debian's chromium, driven by Playwright.

Set DEMO_SCREENSHOTS to a directory to get the pictures of the documentation made there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from demos import count_shown, serving
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PICTURES = os.environ.get("DEMO_SCREENSHOTS")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["fastapi", "quart"])
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with serving(request.param, "uvicorn", tmp_path_factory.mktemp("demo")) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page in a browser profile of its own. Whatever its console complains of is a failure."""
    context = browser.new_context(
        base_url=address, viewport={"width": 1200, "height": 800}, color_scheme="light"
    )
    context.set_default_timeout(10_000)
    page = context.new_page()
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert complaints == []


def picture(page: Page, name: str, *, top: str = "body") -> None:
    # One framework's pictures will do: the pages are the same.
    if PICTURES and "FastAPI" in page.inner_text("header"):
        page.locator(top).evaluate("element => window.scrollTo(0, element.offsetTop - 24)")
        page.screenshot(path=Path(PICTURES) / f"demo-{name}.png")


def session_cookie(page: Page) -> str | None:
    cookies = {cookie.get("name"): cookie.get("value") for cookie in page.context.cookies()}
    return cookies.get("session")


def test_the_whole_way_of_a_visitor(page: Page):
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Hello, stranger.")
    assert page.context.cookies() == []
    picture(page, "anonymous")

    for _ in range(3):
        page.get_by_role("button", name="Count one more").click()
    assert count_shown(page.content()) == 3
    anonymous = session_cookie(page)
    for note in ("Buy oat milk", "Ring Grace about the compiler"):
        page.get_by_label("A new note").fill(note)
        page.get_by_role("button", name="Add").click()

    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Your name").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Ada.")
    expect(page.get_by_role("status")).to_contain_text("Your session has just got a new id")
    assert session_cookie(page) != anonymous
    assert count_shown(page.content()) == 3
    picture(page, "signed-in")
    page.reload()
    expect(page.get_by_role("status")).to_have_count(0)
    expect(page.get_by_text("Ring Grace about the compiler")).to_be_visible()

    page.get_by_role("navigation").get_by_role("link", name="Under the hood").click()
    cookie = session_cookie(page)
    assert cookie is not None
    assert cookie not in page.content()
    expect(page.get_by_role("list", name="From the cookie to the record")).to_be_visible()
    expect(page.get_by_role("region", name="The record")).to_contain_text('"count": 3')
    picture(page, "under-the-hood")
    picture(page, "store-calls", top="section.log")
    page.emulate_media(color_scheme="dark")
    picture(page, "under-the-hood-dark")

    page.get_by_role("link", name="Home").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status")).to_contain_text("You are signed out")
    assert page.context.cookies() == []
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("Hello, stranger.")


def test_what_a_script_in_a_note_does_is_nothing(page: Page):
    page.goto("/")
    page.get_by_label("A new note").fill("<script>document.title='mine'</script><b>bold</b>")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_text("<b>bold</b>")).to_be_visible()
    expect(page).to_have_title(re.compile("^Home"))
    assert page.evaluate("document.cookie") == ""


@pytest.mark.parametrize("path", ["/", "/under-the-hood"])
def test_nothing_sticks_out_on_a_phone(page: Page, path: str):
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto("/")
    page.get_by_label("A new note").fill("w" * 100)
    page.get_by_role("button", name="Add").click()
    page.goto(path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_keyboard_reaches_everything_in_order(page: Page):
    page.goto("/")
    reached: list[str] = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(document.activeElement.labels?.[0] ?? document.activeElement).innerText.trim()"
            )
        )
    assert reached == [
        "Skip to the content",
        "async_session",
        "Home",
        "Under the hood",
        "Your name",
        "Sign in",
        "Count one more",
        "A new note",
    ]
