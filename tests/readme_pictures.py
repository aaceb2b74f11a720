"""Remake the README's pictures in assets/screenshots/: `python tests/readme_pictures.py [film] [tabs] [chart]`.

Needs Chromium; the film and the tabs are of the pocket model, the chart is of the table in docs/results.md.
"""

import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from results_table import read_results
from screenshots import (
    QUESTION,
    SCREENSHOTS,
    await_end,
    explain_run,
    open_browser,
    save_small,
    serve_page,
    slow_down,
    start_example,
    sweep_run,
)

if TYPE_CHECKING:
    from PIL import Image
    from playwright.sync_api import Page

SIZE = {"width": 1030, "height": 640}
PHONE = {"width": 420, "height": 640}
HARMLESS = "How do I bake a cake?"
PACE = 0.12  # seconds a token: about as fast as one reads
HOLD = 3.0  # seconds that a finished run stays
COLOURS = 128
LEVEL = "dataset-level, alpha "


class Film:
    """Frames of a page with the moments at which they were taken."""

    def __init__(self, page: "Page") -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.seconds: list[float] = []

    def take(self, seconds: float) -> None:
        """Add what is on the page, to be shown for so long; what has not changed is shown longer."""
        from PIL import Image

        frame = Image.open(BytesIO(self.page.screenshot())).convert("RGB")
        if self.frames and frame.tobytes() == self.frames[-1].tobytes():
            self.seconds[-1] += seconds
        else:
            self.frames.append(frame)
            self.seconds.append(seconds)

    def follow(self, running: Callable[[], bool]) -> None:
        """Take frames while something runs, each shown for as long as it took until the next."""
        while running():
            before = time.monotonic()
            self.take(0)
            self.seconds[-1] += time.monotonic() - before

    def save(self, path: Path) -> None:
        from PIL import Image

        width, height = self.frames[0].size
        shown = [self.frames[0], self.frames[-1]]  # one palette for all, or still parts would flicker
        sheet = Image.new("RGB", (width, height * len(shown)))
        for k, frame in enumerate(shown):
            sheet.paste(frame, (0, k * height))
        palette = sheet.quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self.frames]
        milliseconds = [max(20, round(1000 * one)) for one in self.seconds]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, optimize=False)


def make_film() -> None:
    """Show a harmful request, which the steered side alone refuses, and a harmless one, which both answer."""
    with serve_page() as (bench, url), open_browser() as browser:
        page = browser.new_page(viewport=SIZE, reduced_motion="reduce")
        page.goto(url)
        page.locator("#examples .card img").last.wait_for()
        film = Film(page)
        for prompt in (QUESTION, HARMLESS):
            page.evaluate("document.querySelector('[role=tablist]').scrollIntoView()")
            page.locator("#examples").get_by_text(prompt).hover()
            page.wait_for_timeout(1000)
            film.take(1.2)
            with slow_down(bench, PACE):
                start_example(page, prompt)
                film.follow(page.locator(".pane.running").first.is_visible)
            page.wait_for_timeout(500)
            film.take(HOLD)
        film.save(SCREENSHOTS / "readme-film.gif")


def take_tabs() -> None:
    """Take three pictures of one size: what a sweep and an explanation show, and a run in the dark."""
    with serve_page() as (_, url), open_browser() as browser:
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport=PHONE, color_scheme=scheme, device_scale_factor=2)

            def shoot(name: str, top: str, page=page) -> None:
                page.mouse.move(0, 0)
                page.locator(top).first.evaluate(
                    "top => window.scrollTo(0, top.getBoundingClientRect().y + scrollY - 8)"
                )
                page.wait_for_timeout(500)
                path = SCREENSHOTS / f"readme-{name}.png"
                page.screenshot(path=path)
                save_small(path)

            page.goto(url)
            start_example(page, QUESTION)
            await_end(page)
            if scheme == "dark":
                shoot("dark", "#panes")
                continue
            sweep_run(page)
            shoot("sweep", "#sweep-results")
            explain_run(page)
            shoot("why", "#pictures")


def draw_chart() -> None:
    """Draw the rates of the table in docs/results.md over alpha, for a light and a dark page."""
    from plotly.offline import get_plotlyjs

    from cmrm.charts import alpha_curves
    from cmrm.judging.statistics import Rate

    def rate(cell: str) -> Rate:
        found = Rate(round(float(cell.split("%")[0])), 100)
        assert str(found) == cell, "the chart is of 100 records of a kind"
        return found

    names = ("harmful refused", "harmless refused", "questions right")
    rows = read_results()
    alphas = {"unsteered": 0.0} | {name: float(name.split()[-1]) for name in rows if name.startswith(LEVEL)}
    figure = alpha_curves({at: [rate(rows[name][one]) for one in names] for name, at in alphas.items()}).figure
    with open_browser() as browser:
        for scheme, colour in (("light", "#1f2328"), ("dark", "#f0f6fc")):  # GitHub's text
            figure.update_layout(width=830, height=320, font={"color": colour, "size": 14})
            page = browser.new_page(viewport={"width": 830, "height": 320}, device_scale_factor=2)
            page.set_content(
                f"<body style='margin: 0'><script>{get_plotlyjs()}</script>"
                + figure.to_html(full_html=False, include_plotlyjs=False, config={"staticPlot": True})
            )
            page.locator(".js-plotly-plot .main-svg").first.wait_for()
            page.screenshot(path=SCREENSHOTS / f"readme-chart-{scheme}.png", omit_background=True)


PICTURES = {"film": make_film, "tabs": take_tabs, "chart": draw_chart}

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name]()
