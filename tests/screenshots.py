"""Remake the pictures in assets/: `python tests/screenshots.py` (the page) or `... examples` (its examples).

Needs Chromium, and for the page the pocket model.
"""

import random
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

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


def take_screenshots() -> None:
    from PIL import Image
    from playwright.sync_api import sync_playwright

    from cmrm.server.launch import launch
    from cmrm.ui import build
    from cmrm.workbench import Workbench

    SCREENSHOTS.mkdir(exist_ok=True)
    bench = Workbench.open()
    blocks = build(bench)
    url = launch(blocks, block=False)
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for device, scheme, width in (("desktop", "light", 1280), ("desktop", "dark", 1280), ("phone", "light", 360)):
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)

            def shoot(moment: str, page=page, name: str = f"{device}-{scheme}") -> None:
                page.mouse.move(0, 0)
                page.wait_for_timeout(300)
                path = SCREENSHOTS / f"{moment}-{name}.png"
                page.screenshot(path=path, full_page=True)
                Image.open(path).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)

            def tab(name: str, page=page) -> None:
                if page.get_by_role("tab", name=name).is_visible():
                    page.get_by_role("tab", name=name).click()
                else:  # a narrow page has the rest in a menu
                    page.locator(".overflow-menu > button").click()
                    page.locator(".overflow-dropdown").get_by_text(name, exact=True).click()

            def run(page=page) -> None:
                page.get_by_role("button", name="Run").click()
                page.locator(".pane.running").first.wait_for()

            def end(page=page) -> None:
                page.locator(".pane.running").first.wait_for(state="hidden")

            page.goto(url)
            page.get_by_text(QUESTION).first.click()
            page.locator("#image img").wait_for()
            shoot("before")
            # The pocket model is too fast for a camera.
            slow = bench.engine.vlm.model.register_forward_pre_hook(lambda *_: time.sleep(0.25))
            run()
            page.wait_for_function("document.querySelectorAll('.running .answer')[1]?.innerText.length > 12")
            shoot("during")
            slow.remove()
            end()
            run()
            end()
            shoot("after")
            tab("Why")
            page.get_by_role("button", name="Explain this run").click()
            page.locator("#pictures .js-plotly-plot").last.wait_for(timeout=60_000)
            page.wait_for_timeout(2000)
            shoot("why")
            tab("Sweep")
            page.get_by_role("button", name="Take image and prompt").click()
            page.locator("#sweep-image img").wait_for()
            page.get_by_role("button", name="Sweep", exact=True).click()
            page.locator("#sweep-results .js-plotly-plot").wait_for(timeout=60_000)
            page.wait_for_timeout(1000)
            shoot("sweep")
            tab("Anchors")
            page.get_by_role("button", name="Take the model's own").click()
            page.get_by_role("button", name="Compute offsets").click()
            page.locator("#anchors-results .js-plotly-plot").wait_for(timeout=120_000)
            page.wait_for_timeout(1000)
            shoot("anchors")
            tab("About")
            shoot("about")
            tab("Compare")
            page.get_by_label("Blind").check()
            page.get_by_role("button", name="Run").click()
            page.locator(".pane.undecided").first.wait_for()
            shoot("blind")
            page.close()
        browser.close()
    blocks.close(verbose=False)


if __name__ == "__main__":
    draw_examples() if sys.argv[1:] == ["examples"] else take_screenshots()
