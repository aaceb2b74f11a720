"""The browser and the served pages that the tests of the page share."""

import pytest
from browsers import CHROMIUM, HELPFUL, QUIET, REFUSAL, visit
from playwright.sync_api import sync_playwright
from serving import Served, serving, workbench


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--disable-sync"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pocket():
    """A real (tiny) model under the name that needs no veil."""
    with serving(workbench("pocket"), pace=0.02) as served:
        yield served


@pytest.fixture(scope="session")
def veiled():
    with serving(workbench("other", (HELPFUL, REFUSAL))) as served:
        yield served


@pytest.fixture
def slowly(pocket):
    """For what is done during a run, however late a busy machine does it."""
    with pocket.slowly():
        yield


@pytest.fixture
def look() -> dict:
    """Which device and colours the page is seen with; a module may have others."""
    return {}


@pytest.fixture
def page(browser, pocket: Served, look):
    before = pocket.hooks
    page = visit(browser, pocket, **look)
    yield page
    page.close()
    assert pocket.idle(quiet=0.3)
    assert pocket.hooks == before
