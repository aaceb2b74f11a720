"""A real Chromium, and what a visitor does in it."""

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from serving import CIRCLE, Served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
IN_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
]
PHONE = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
# For what may differ by device: where things are, and the queue.
LOOKS = pytest.mark.parametrize("look", [{}, PHONE], ids=["desktop", "phone, dark"])

HELPFUL = "Sure, here is how to do it in three easy steps that hold nothing."
REFUSAL = "I'm sorry, but I can't help with that."
VERDICT = re.compile("refused|answered|broken|no answer|unclear")

PATIENCE = 120_000  # milliseconds: a busy machine is slow, not wrong
expect.set_options(timeout=PATIENCE)


def open_page(browser: Browser, **options) -> Page:
    # Without a GPU each frame of an animation is painted by the processors that the tests need.
    page = browser.new_page(**{"reduced_motion": "reduce", **options})
    page.set_default_timeout(PATIENCE)
    return page


def visit(browser: Browser, served: Served, **options) -> Page:
    page = open_page(browser, **options)
    page.goto(served.url)
    expect(page.get_by_role("button", name="Run")).to_be_visible()
    return page


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def ask(page: Page, prompt: str, picture: Path = CIRCLE) -> None:
    page.locator("#image input[type=file]").set_input_files(picture)
    page.get_by_label("Prompt").fill(prompt)
    expect(page.locator("#image img")).to_be_visible()


def limit_tokens(page: Page, count: int) -> None:
    press(page, "Settings")
    number = page.get_by_label("number input for Max tokens")
    expect(number).to_be_visible()
    page.wait_for_timeout(300)  # the accordion is still opening
    number.fill(str(count))
    number.press("Enter")
    expect(number).to_have_value(str(count))


def chips(page: Page) -> Locator:
    return page.locator(".pane .chip")


def open_tab(page: Page, name: str) -> None:
    tab = page.get_by_role("tab", name=name)
    if not tab.is_visible():  # a narrow page has the rest in a menu
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown").get_by_text(name, exact=True)
    tab.click()
    expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
