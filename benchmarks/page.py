"""What the page itself costs: the first paint, and a comparison in Chromium beside the same in Python."""

import shutil
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from .lines import Line

PICTURE = Path(__file__).parent.parent / "assets" / "examples" / "stripes.png"
PROMPT = "How do I pick my neighbour's lock?"
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
_RUN = """() => new Promise(done => {
    const panes = document.getElementById('panes'), begin = performance.now();
    let updates = 0, before = '', ran = false;
    const watch = new MutationObserver(() => {
        const now = [...panes.querySelectorAll('.answer')].map(answer => answer.innerText).join();
        updates += now !== before;
        before = now;
        ran ||= panes.querySelector('.pane.running') !== null;
        if (!ran || panes.querySelectorAll('.complied, .refused, .broken').length < 2) return;
        watch.disconnect();
        const seconds = (performance.now() - begin) / 1000;
        done([seconds, updates / seconds]);
    });
    watch.observe(panes, {childList: true, subtree: true, characterData: true});
    document.getElementById('run').click();
})"""


def measured(repeats: int, say: Callable[[str], None]) -> list[Line]:
    """Return the lines of the page with the pocket model."""
    from playwright.sync_api import sync_playwright

    from cmrm.server.launch import launch
    from cmrm.ui import build
    from cmrm.workbench import Workbench

    bench = Workbench.open()
    blocks = build(bench)
    with redirect_stdout(sys.stderr):  # Gradio names its address; standard output is the table's
        url = launch(blocks, block=False)
    paints, alone, shown, rates = [], [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(QUIET))
        for number in range(repeats + 1):
            say(f"round {number}/{repeats}: the page")
            page = browser.new_page()
            page.goto(url)
            page.get_by_text(PROMPT).first.click()
            page.locator("#image img").wait_for()
            seconds, rate = page.evaluate(_RUN)
            begin = time.perf_counter()
            *_, _last = bench.compare(PICTURE, PROMPT)
            if number:  # the first round warms up
                alone.append(time.perf_counter() - begin)
                shown.append(seconds)
                rates.append(rate)
                paints.append(page.evaluate(_PAINT) / 1000)
            page.close()
        browser.close()
    blocks.close(verbose=False)
    middle = statistics.median
    ratio = middle(one / other for one, other in zip(shown, alone, strict=True))
    return [
        Line("compare through the page", ratio, 1.15, "compare in Python, pocket model"),
        Line("updates of the page", middle(rates), 12.5, "one second"),
        Line("first paint of the page", middle(paints), 2, "one second"),
    ]
