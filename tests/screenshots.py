"""Remake the pictures in assets/: `python tests/screenshots.py` (the page) or `... examples` (its examples).

Needs Chromium, and for the page the pocket model. The README's own are made by `python tests/readme_pictures.py`.
"""

import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from cmrm.workbench import Workbench

EXAMPLES = ROOT / "assets" / "examples"
SCREENSHOTS = ROOT / "assets" / "screenshots"

QUESTION = "How do I pick my neighbour's lock?"


def draw_examples() -> None:
    from cmrm.pocket.scenes import Scene, Thing, draw

    scenes = {
        "circle": Scene((Thing("circle", "red", "in the middle", True),), "white"),
        "star": Scene((Thing("star", "yellow", "in the middle", True),), "blue"),
        "pair": Scene((Thing("square", "green", "on the left"), Thing("heart", "pink", "on the right")), "white"),
        "stripes": Scene((), "green", "striped"),
        "blank": Scene((), "white"),
    }
    EXAMPLES.mkdir(exist_ok=True)
    for name, scene in scenes.items():
        draw(scene, random.Random(1), 256).save(EXAMPLES / f"{name}.png", optimize=True)


@contextmanager
def open_browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def serve_page() -> "Iterator[tuple[Workbench, str]]":
    """Serve the page over the pocket model, and say where."""
    from cmrm.server.launch import launch
    from cmrm.ui import build
    from cmrm.workbench import Workbench

    bench = Workbench.open()
    blocks = build(bench)
    yield bench, launch(blocks, block=False)
    blocks.close(verbose=False)


@contextmanager
def slow_down(bench: "Workbench", seconds: float) -> Iterator[None]:
    """Let each forward pass take longer: the pocket model is too fast for a camera."""
    handle = bench.engine.vlm.model.register_forward_pre_hook(lambda *_: time.sleep(seconds))
    yield
    handle.remove()


def open_tab(page: "Page", name: str) -> None:
    if page.get_by_role("tab", name=name).is_visible():
        page.get_by_role("tab", name=name).click()
    else:  # a narrow page has the rest in a menu
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown").get_by_text(name, exact=True).click()


def start_run(page: "Page") -> None:
    page.get_by_role("button", name="Run").click()
    page.locator(".pane.running").first.wait_for()


def start_example(page: "Page", prompt: str) -> None:
    page.locator("#examples").get_by_text(prompt).click()
    page.locator(".pane.running").first.wait_for()


def await_end(page: "Page") -> None:
    page.locator(".pane.running").first.wait_for(state="hidden")


def explain_run(page: "Page") -> None:
    open_tab(page, "Why")
    page.get_by_role("button", name="Explain this run").click()
    page.locator("#pictures .js-plotly-plot").last.wait_for(timeout=60_000)
    page.wait_for_timeout(2000)


def sweep_run(page: "Page") -> None:
    open_tab(page, "Sweep")
    page.locator("#sweep-image img").wait_for()
    page.get_by_role("button", name="Sweep", exact=True).click()
    page.locator("#sweep-results .js-plotly-plot").wait_for(timeout=60_000)
    page.wait_for_timeout(1000)


def save_small(path: Path) -> None:
    """Write a picture again in few colours."""
    from PIL import Image

    Image.open(path).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def take_screenshots() -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    with serve_page() as (bench, url), open_browser() as browser:
        for device, scheme, width in (("desktop", "light", 1280), ("desktop", "dark", 1280), ("phone", "light", 360)):
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)

            def shoot(moment: str, page=page, name: str = f"{device}-{scheme}") -> None:
                page.mouse.move(0, 0)
                page.wait_for_timeout(300)
                path = SCREENSHOTS / f"{moment}-{name}.png"
                page.screenshot(path=path, full_page=True)
                save_small(path)

            page.goto(url)
            page.locator("#examples .card img").last.wait_for()
            shoot("before")
            with slow_down(bench, 0.25):
                start_example(page, QUESTION)
                page.wait_for_function("document.querySelectorAll('.running .answer')[1]?.innerText.length > 12")
                shoot("during")
            await_end(page)
            start_run(page)
            await_end(page)
            shoot("after")
            explain_run(page)
            shoot("why")
            sweep_run(page)
            shoot("sweep")
            open_tab(page, "Anchors")
            page.get_by_role("button", name="Take the model's own").click()
            page.get_by_role("button", name="Compute offsets").click()
            page.locator("#anchors-results .js-plotly-plot").wait_for(timeout=120_000)
            page.wait_for_timeout(1000)
            shoot("anchors")
            open_tab(page, "About")
            shoot("about")
            open_tab(page, "Compare")
            page.get_by_label("Blind").check()
            page.get_by_role("button", name="Run").click()
            page.locator(".pane.undecided").first.wait_for()
            shoot("blind")
            page.close()


if __name__ == "__main__":
    draw_examples() if sys.argv[1:] == ["examples"] else take_screenshots()
