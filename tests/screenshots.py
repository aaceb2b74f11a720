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

    from cmrm.ui import build, launch
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

            page.goto(url)
            page.get_by_text(QUESTION).click()
            page.locator("#image img").wait_for()
            shoot("before")
            # The pocket model is too fast for a camera.
            slow = bench.vlm.model.register_forward_pre_hook(lambda *_: time.sleep(0.25))
            page.get_by_role("button", name="Run").click()
            page.wait_for_function("document.querySelectorAll('.running .answer')[1]?.innerText.length > 12")
            shoot("during")
            slow.remove()
            page.locator(".pane.running").first.wait_for(state="hidden")
            page.get_by_role("button", name="Run").click()
            page.locator(".pane.running").first.wait_for()
            page.locator(".pane.running").first.wait_for(state="hidden")
            shoot("after")
            page.close()
        browser.close()
    blocks.close(verbose=False)


if __name__ == "__main__":
    draw_examples() if sys.argv[1:] == ["examples"] else take_screenshots()
